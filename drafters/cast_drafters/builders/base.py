"""What every tree builder is asked, in the order of a step: whether to draft, how wide each level
is to be, and which of the candidates to verify.

A builder serves all sequences of a step that share its kind of policy, so it can weigh one against
the other. Probabilities are those of the drafter's calibration: natural logarithms of paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cast_drafters.base import DraftLimits, Frontier
from cast_drafters.tree import DraftTree
from cast_profiler.cost import CostModel


@dataclass(frozen=True, slots=True)
class Seat:
    """A decoding sequence that may be drafted for.

    `size` is the most nodes of use to it, `max_depth` the most tokens that it can still accept,
    `levels` how many levels its policy names (0: none named), `weight` what a token of it is worth.
    `has_prediction`: the client has said what it expects, which others' drafts tell nothing of.
    """

    request_id: str
    size: int
    max_depth: int
    levels: int = 0
    weight: float = 1.0
    has_prediction: bool = False


class DraftCosts(CostModel, Protocol):
    """Costs that include what drafting takes beside its passes."""

    def host_seconds(self, sequences: int) -> float: ...


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What drafting costs in this step, beside the `num_rows` rows that it computes anyway.

    `num_keys` are the tokens of context attended to, of all `num_sequences`; `max_nodes` the rows
    left for drafts. `price` is what a second is worth, in tokens.
    """

    model: DraftCosts
    price: float
    num_rows: int
    num_keys: int
    num_sequences: int
    max_nodes: int

    def verify(self, num_nodes: int) -> float:
        """Seconds of the step's pass with so many drafted rows."""
        return self.model.verify_seconds(
            self.num_rows + num_nodes, self.num_keys, self.num_sequences
        )

    def draft(self, num_rows: int) -> float:
        """Seconds of one pass of the drafter."""
        if not num_rows:
            return 0.0
        return self.model.draft_seconds(num_rows, self.num_keys, self.num_sequences)

    def host(self, num_sequences: int) -> float:
        """Seconds of drafting for so many sequences, beside any pass."""
        return self.model.host_seconds(num_sequences)


@dataclass(frozen=True, slots=True)
class StepShape:
    """A step of drafts whose nodes are chosen elsewhere: which of the roots are run, how many rows
    each level behind them has, and how many nodes are verified, of all sequences together."""

    roots: tuple[bool, ...]
    levels: tuple[int, ...]
    num_nodes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step brought and took, drafting and all, for all its sequences together: draft tokens
    that were expected to be accepted and that were; seconds, and what a plain step is thought to
    take."""

    expected: float
    accepted: float
    seconds: float
    plain_seconds: float


class Builder(Protocol):
    """Asked once a step each: `limits`, `widths` for one level after the other, `choose`.

    One that `foresees` says at once what a step is to be like, and is asked `limits` and `plan`.
    """

    foresees: bool = False

    def limits(self, seats: Sequence[Seat], costs: StepCosts) -> list[DraftLimits]:
        """What to ask of the drafter for each seat; 0 nodes: nothing."""
        ...

    def widths(self, level: int, frontiers: Sequence[Frontier], costs: StepCosts) -> list[int]:
        """How many of each frontier's nodes, the likeliest first, the level runs. 0 nowhere: stop.

        Level 0 is the pass over each sequence's root.
        """
        ...

    def ran(
        self,
        level: int,  # noqa: ARG002
        frontiers: Sequence[Frontier],  # noqa: ARG002
        children: Sequence[Sequence[Sequence[float]]],  # noqa: ARG002
    ) -> None:
        """What the level has found: for each node that it ran, the conditional probabilities of
        the children it has now, falling."""
        return

    def choose(
        self, trees: Sequence[DraftTree], seats: Sequence[Seat], costs: StepCosts
    ) -> list[DraftTree]:
        """The part of each tree to verify, at most `costs.max_nodes` nodes in all."""
        ...

    def plan(
        self,
        frontiers: Sequence[Frontier],
        costs: StepCosts,  # noqa: ARG002
    ) -> StepShape:
        """Before anything is run; `frontiers` are those of the roots. Of use if it `foresees`."""
        return StepShape((False,) * len(frontiers), (), 0)

    def verified(
        self,
        trees: Sequence[DraftTree],  # noqa: ARG002
        seats: Sequence[Seat],  # noqa: ARG002
        costs: StepCosts,  # noqa: ARG002
    ) -> None:
        """After `plan`: what was verified, which `choose` has not been asked for."""
        return

    def settle(self, outcome: Outcome, costs: StepCosts) -> None:  # noqa: ARG002
        """What came of the step."""
        return
