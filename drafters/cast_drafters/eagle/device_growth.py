"""A head grows the trees of a whole step on the device, one recorded pass after the other.

The host fills in what it knows (`Planting`), asks for the roots and for as many levels as the step
is to have, and reads nothing. What has grown is in `forest`.

Shape suffixes: as in `forest.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.calibration_lookup import Lookup
from cast_drafters.eagle.forest import Candidates, Forest, Ground
from cast_drafters.eagle.passes import Level, LevelBuffers, level_size
from cast_drafters.eagle.served import HeadRows, LevelInputs, ServedHead
from cast_drafters.growth import Node
from cast_drafters.pool import NUM_DEPTHS
from cast_kernels.graphs import Graph, capture_all
from cast_kernels.staging import Field, Staging
from cast_kernels.tree_attention.fixed import Size
from cast_kernels.tree_attention.paged import WORD_BITS

WIDTH: Final = 4  # children of a node
_LEVELS: Final = 8  # of the largest bucket, that there is room for
_FREE: Final = 8  # candidates of each sequence that cost no pass …
_FEWEST_FREE: Final = 64  # … or so many where there are few sequences
_MOST_SEQUENCES: Final = 1024
_MOST_CANDIDATES: Final = 16_383  # with nobody, what the frontier's kernel takes
_BY_SEQUENCE: Final = {
    "position": (torch.int64, 0),
    "context": (torch.int32, 0),
    "root_slot": (torch.int64, 0),
    "is_run": (torch.bool, False),
    "mode": (torch.int64, 0),
    "temperature": (torch.float32, 1.0),
    "width": (torch.int64, 0),
    "depth": (torch.int64, 0),
    "size": (torch.int64, 0),
    "least": (torch.float32, 0.0),
    "weight": (torch.float32, 0.0),
    "root_trust": (torch.float32, 0.0),
}
_OF_CANDIDATES: Final = {
    "token": (torch.int64, 0),
    "parent": (torch.int64, 0),
    "sequence": (torch.int64, 0),
    "node_depth": (torch.int64, 0),
    "source": (torch.int64, 0),
    "rank": (torch.int64, 0),
    "log_prob": (torch.float32, -np.inf),
    "confidence": (torch.float32, 0.0),
}


@dataclass(frozen=True, slots=True)
class Plot:
    """One sequence's part of `Ground`, and what grows there already; `is_run` as in `Ground`."""

    position: int
    context: int
    root_slot: int
    is_run: bool
    temperature: float
    width: int
    depth: int
    size: int
    least: float
    weight: float
    root_trust: float
    nodes: Sequence[Node] = ()


@dataclass(frozen=True, slots=True)
class Planting:
    """A step as the host knows it: None where a sequence gets no drafts. `level`: the pass that
    brings the head up to date and runs the roots, None if no root is run; `odds` and `steps` are
    the calibration's table, `trust` that of `FreeGuesses`."""

    plots: Sequence[Plot | None]
    level: Level | None
    num_nodes: int
    odds: NDArray[np.float32]
    steps: NDArray[np.float32]
    trust: Sequence[float] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Land:
    """token_ids_V: the target's, of the head's vocabulary; `width` children are given to a node."""

    forest: Forest
    ground: Ground
    token_ids_V: Tensor
    width: int


@dataclass(frozen=True, slots=True)
class _Bucket:
    size: Size
    roots: Graph[Tensor]
    level: Graph[Tensor]


class DeviceGrowth:
    """`buckets`: numbers of rows, rising, that levels are padded to; of at most `max_sequences`
    sequences of `max_length` tokens. Steps of more than 1024 sequences are not for it."""

    def __init__(
        self,
        head: ServedHead,
        buckets: Sequence[int],
        max_sequences: int,
        max_length: int,
        tables: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        largest = level_size(max(buckets), min(max_sequences, _MOST_SEQUENCES), max_length)
        batch = largest.sequences
        self.max_rows = min(head.num_scratch, _LEVELS * largest.rows, _MOST_SEQUENCES)
        guesses = WIDTH * (batch + self.max_rows)
        self.num_free = min(max(_FEWEST_FREE, _FREE * batch), _MOST_CANDIDATES - guesses)
        self._head = head
        head.reserve(max_length)  # a table that grew later would not be the recorded one
        self._buffers = LevelBuffers(head, largest, largest.rows)
        self._staging = Staging(_fields(batch, self.num_free, tables), head.device)
        page_BP = self._buffers.page_BP
        self.land = Land(
            Forest.empty(
                self.num_free + guesses, largest.words, page_BP, head.num_slots, head.num_scratch
            ),
            _ground(self._staging.device),
            torch.from_numpy(head.draft_token_ids).to(head.device),
            min(WIDTH, len(head.draft_token_ids)),
        )
        self._buckets = [self._make_bucket(largest.bucket(rows)) for rows in buckets]

    @property
    def buckets(self) -> tuple[int, ...]:
        return tuple(bucket.size.rows for bucket in self._buckets)

    def capture(self, show_progress: bool = True) -> None:
        """Records graphs for each bucket, on a CUDA device, before the first step."""
        none = np.empty(0, np.int64)
        self._buffers.send(Level(HeadRows(none, none, none, []), none, none, none))
        host = self._staging.host
        self.plant(Planting([], None, 0, host["odds"], host["steps"], host["trust"]))
        graphs = [graph for one in self._buckets for graph in (one.roots, one.level)]
        if not capture_all(graphs, "the growth of drafts", show_progress):
            self._buckets = []

    def rows_of(self, rows: int) -> int | None:
        """What a level of so many rows is padded to, with likely nodes as far as there are any."""
        return next((one.size.rows for one in self._buckets if one.size.rows >= rows), None)

    def holds(self, num_rows: int, num_sequences: int) -> bool:
        """Whether the roots of a step can be run: rows of all, and sequences with any or none."""
        sizes = [one.size for one in self._buckets if num_rows <= one.size.words * WORD_BITS]
        return any(num_rows <= one.rows and num_sequences <= one.sequences for one in sizes)

    @torch.inference_mode()
    def plant(self, planting: Planting) -> None:
        """Sends what the host knows; runs the roots, if any."""
        self._staging.wait()
        host = self._staging.host
        host["odds"][:], host["steps"][:] = planting.odds, planting.steps
        host["trust"][:], host["num_nodes"][:] = planting.trust, planting.num_nodes
        host["num_sequences"][:] = len(planting.plots)
        for name, (_, default) in (_BY_SEQUENCE | _OF_CANDIDATES).items():
            host[name][:] = default
        free = 0
        for index, plot in enumerate(planting.plots):
            if plot is not None:
                self._write(index, plot)
                self._write_nodes(index, plot.nodes, free)
                free += len(plot.nodes)
        self._staging.send()
        if planting.level is None:
            self.land.forest.clear(self.land.ground)
            return
        size = Size.of(planting.level.rows.sequences, 1)
        bucket = next(one for one in self._buckets if one.size.holds(size))
        self._buffers.send(planting.level)
        bucket.roots()

    @torch.inference_mode()
    def level(self, rows: int) -> None:
        """One more level, of so many rows: those of a bucket."""
        next(one for one in self._buckets if one.size.rows == rows).level()

    def _write(self, index: int, plot: Plot) -> None:
        host = self._staging.host
        for name in _BY_SEQUENCE:
            if name != "mode":
                host[name][index] = getattr(plot, name)
        host["mode"][index] = plot.temperature > 0
        if not plot.temperature:
            host["temperature"][index] = 1.0

    def _write_nodes(self, index: int, nodes: Sequence[Node], first: int) -> None:
        host = self._staging.host
        for place, node in enumerate(nodes, start=first):
            host["token"][place], host["sequence"][place] = node.token, index
            host["parent"][place] = node.parent + first if node.parent >= 0 else -1
            host["node_depth"][place], host["source"][place] = node.depth, node.source
            host["rank"][place], host["log_prob"][place] = node.rank, node.log_prob
            host["confidence"][place] = node.confidence

    def _make_bucket(self, size: Size) -> _Bucket:
        inputs = self._buffers.inputs(size)
        return _Bucket(
            size,
            Graph(lambda: grow_roots(self._head, self.land, inputs)),
            Graph(lambda: grow_level(self._head, self.land, size.rows)),
        )


@torch.inference_mode()
def grow_roots(head: ServedHead, land: Land, inputs: LevelInputs) -> Tensor:
    """One row for each sequence of the step is wanted, whether its root is run or not."""
    forest, ground = land.forest, land.ground
    logits_NV = head.level(inputs)[: len(ground.is_run_B)]
    sequence_N = torch.arange(len(logits_NV), device=logits_NV.device)
    forest.clear(ground)
    root_N = torch.full_like(sequence_N, -1)
    forest.add_children(ground, root_N, sequence_N, _followers(head, land, logits_NV, sequence_N))
    return forest.count


@torch.inference_mode()
def grow_level(head: ServedHead, land: Land, rows: int) -> Tensor:
    """The likeliest nodes that the head has not run get children."""
    forest, ground = land.forest, land.ground
    node_U, sequence_U, inputs = forest.next_level(ground, rows, head.backend)
    logits_UV = head.level(inputs)
    forest.add_children(ground, node_U, sequence_U, _followers(head, land, logits_UV, sequence_U))
    return forest.count


def _followers(
    head: ServedHead, land: Land, logits_NV: Tensor, sequence_N: Tensor
) -> tuple[Tensor, Tensor]:
    """The likeliest at the temperatures of their sequences: log-probabilities, token ids."""
    heated_NV = logits_NV / land.ground.temperature_B[sequence_N][:, None]
    log_q_NK, index_NK = head.backend.log_softmax_topk(heated_NV, land.width)
    return log_q_NK, land.token_ids_V[index_NK]


def _fields(
    batch: int, num_free: int, tables: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> dict[str, Field]:
    fields = {name: Field((batch,), dtype) for name, (dtype, _) in _BY_SEQUENCE.items()}
    fields |= {name: Field((num_free,), dtype) for name, (dtype, _) in _OF_CANDIDATES.items()}
    odds, steps = (Field(table.shape, torch.float32) for table in tables)
    fields |= {"odds": odds, "steps": steps, "trust": Field((NUM_DEPTHS,), torch.float32)}
    return fields | dict.fromkeys(("num_sequences", "num_nodes"), Field((1,), torch.int64))


def _ground(device: Mapping[str, Tensor]) -> Ground:
    by_sequence = {f"{name}_B": device[name] for name in _BY_SEQUENCE}
    return Ground(
        **by_sequence,
        trust_D=device["trust"],
        num_sequences=device["num_sequences"],
        num_nodes=device["num_nodes"],
        lookup=Lookup(device["odds"], device["steps"]),
        free_F=Candidates(*(device[name] for name in _OF_CANDIDATES)),
    )
