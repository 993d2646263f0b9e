"""The seam between the engine and whatever guesses tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cast_drafters.tree import DraftTree


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """The largest tree that is of use. `max_width` bounds the children considered per node."""

    max_nodes: int
    max_depth: int
    max_width: int


@dataclass(frozen=True, slots=True)
class DraftContext:
    """One sequence to draft for.

    `token_ids` are the committed tokens, prompt and output: a live list that the engine owns and
    extends; drafters only read it. `temperature` and `seed` are those the target samples with.
    """

    request_id: str
    token_ids: Sequence[int]
    limits: DraftLimits
    temperature: float
    seed: int


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


class Drafter(Protocol):
    """Guesses how sequences go on. One instance serves all sequences of an engine, in its thread.

    Guesses never change what is generated, only how fast: a drafter may be wrong, but not invalid.
    """

    name: str

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        """A sequence enters, or enters again after preemption, perhaps with other tokens."""

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        """One tree per context, in order: within its limits, empty where nothing is worth a try."""
        ...

    def observe(self, results: Sequence[VerifyResult]) -> None:
        """Learns from one verified step."""

    def release(self, request_id: str) -> None:
        """Forgets a sequence. Unknown ids are fine."""
