"""The seam between the engine and whatever guesses tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.calibration import Calibration
from cast_drafters.tree import DraftTree
from cast_kernels.backend import TORCH, Backend


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """The largest tree that is of use. `max_width` bounds the children considered per node.

    A drafter that works in levels runs at most `max_levels` of them and `level_width` nodes in each
    but the root's. Paths whose natural log-probability is below `least` are of no use.
    """

    max_nodes: int
    max_depth: int
    max_width: int
    max_levels: int = 8
    level_width: int = 4
    least: float = -math.inf


@dataclass(frozen=True, slots=True)
class DraftContext:
    """One sequence to draft for.

    `token_ids` are the committed tokens, prompt and output: a live list that the engine owns and
    extends; drafters only read it. `temperature` and `seed` are those the target samples with.
    `slots_L` are the KV cache slots of those tokens; the last one is not computed yet. `num_output`
    of them are output: the position that the noise for the first drafted token is keyed by.
    `owner` is whom the sequence belongs to, an opaque name; "" for all who have none. A drafter
    that keeps anything of a sequence beyond its end must not let another owner's sequences use it.
    `prediction` is a text that the output is expected to resemble, () for none.
    """

    request_id: str
    token_ids: Sequence[int]
    limits: DraftLimits
    temperature: float
    seed: int
    slots_L: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    num_output: int = 0
    owner: str = ""
    prediction: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Frontier:
    """What the next level could run of one sequence.

    `log_probs` are those of its nodes' paths, falling. `num_rows` is what a pass computes for one
    node: 1, or for the root the tokens that the drafter has not seen yet. `candidates` are the
    log-probabilities of all nodes that the tree has so far. `free` tells what children the first n
    of the nodes would have without a pass: their conditional probabilities, falling.
    """

    request_id: str
    limits: DraftLimits
    log_probs: Sequence[float]
    num_rows: int
    candidates: Sequence[float]
    free: Callable[[int], Sequence[Sequence[float]]]


class LevelGate(Protocol):
    """Decides between the levels of a draft how wide the next one is to be."""

    def widths(self, level: int, frontiers: Sequence[Frontier]) -> list[int]:
        """How many nodes of each frontier to run, the likeliest first. Level 0 is the root's."""
        ...

    def ran(
        self,
        level: int,  # noqa: ARG002
        frontiers: Sequence[Frontier],  # noqa: ARG002
        children: Sequence[Sequence[Sequence[float]]],  # noqa: ARG002
    ) -> None:
        """For each frontier and each node that was run: what children it has now, as in `free`."""
        return


class OpenGate(LevelGate):
    """Every level that the limits allow, as wide as they allow."""

    def widths(self, level: int, frontiers: Sequence[Frontier]) -> list[int]:
        return [len(one.log_probs) if level < one.limits.max_levels else 0 for one in frontiers]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What the target made of one tree.

    `accepted_nodes` is a path from the root, shallowest first. `token_ids` are the tokens committed
    in this step: the accepted ones, then the target's own (bonus) token; a stop may cut them short.
    """

    request_id: str
    tree: DraftTree
    accepted_nodes: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TargetParts:
    """What a drafter may use of the target it drafts for.

    embedding_VE: its input embeddings. `num_slots` is the size of its KV cache in tokens. `name` is
    that of a built-in model, or its directory. `model` is transformers' module, packed already.
    `backend` is what the target's operations run on.
    """

    name: str
    model: Any
    embedding_VE: Tensor
    num_layers: int
    num_slots: int
    dtype: torch.dtype
    device: torch.device
    backend: Backend = TORCH

    @property
    def hidden_size(self) -> int:
        return self.embedding_VE.shape[1]

    @property
    def vocab_size(self) -> int:
        return self.embedding_VE.shape[0]


class Drafter(Protocol):
    """Guesses how sequences go on. One instance serves all sequences of an engine, in its thread.

    Guesses never change what is generated, only how fast: a drafter may be wrong, but not invalid.
    """

    name: str
    calibration: Calibration

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        """A sequence enters. Preemption later on changes none of its tokens and is not told."""

    def propose(
        self, contexts: Sequence[DraftContext], gate: LevelGate | None = None
    ) -> list[DraftTree]:
        """One tree per context, in order: within its limits, empty where nothing is worth a try.

        A drafter whose levels cost something asks `gate` before each; None: as the limits say.
        """
        ...

    def observe(self, results: Sequence[VerifyResult]) -> None:
        """Learns from one verified step."""

    def release(self, request_id: str) -> None:
        """Forgets a sequence. Unknown ids are fine."""


@runtime_checkable
class HiddenObserver(Protocol):
    """Is shown the target's hidden states of every row, as they are written to the KV cache.

    `layer_ids` name the residual stream at the input of a layer; id L is the output of the last.
    """

    layer_ids: tuple[int, ...]

    def record(self, slots_M: Tensor, hidden: Sequence[Tensor]) -> None:
        """Rows just computed. slots_M: int64 cache slots; hidden: one [M, E] for each layer id.

        A slot of -1 is nobody's: what is told of it must harm none. Both methods may be recorded in
        a CUDA graph, and must not wait for the device.
        """

    def move(self, source_M: Tensor, target_M: Tensor) -> None:
        """Rows that were accepted go to other slots, as their keys and values do; -1 as above."""
