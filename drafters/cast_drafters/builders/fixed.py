"""Shapes that ask no costs: nothing, a chain, the likeliest nodes, EAGLE-2's tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cast_drafters.base import DraftLimits, Frontier, OpenGate
from cast_drafters.builders.base import Builder, Seat, StepCosts, StepShape
from cast_drafters.tree import EMPTY_TREE, DraftTree

NO_DRAFTS: Final = DraftLimits(0, 0, 0)
_DEPTH: Final = 8
_WIDTH: Final = 4
_LEVELS: Final = 8


class OffBuilder(Builder):
    """Plain decoding."""

    def limits(self, seats: Sequence[Seat], costs: StepCosts) -> list[DraftLimits]:  # noqa: ARG002
        return [NO_DRAFTS] * len(seats)

    def widths(
        self,
        level: int,  # noqa: ARG002
        frontiers: Sequence[Frontier],
        costs: StepCosts,  # noqa: ARG002
    ) -> list[int]:
        return [0] * len(frontiers)

    def choose(
        self,
        trees: Sequence[DraftTree],
        seats: Sequence[Seat],  # noqa: ARG002
        costs: StepCosts,  # noqa: ARG002
    ) -> list[DraftTree]:
        return [EMPTY_TREE] * len(trees)


class _Fixed(Builder):
    """The same for every step; where rows are short, every sequence gets the same share."""

    foresees = True
    depth = _DEPTH
    width = _WIDTH
    level_width = _WIDTH

    def limits(self, seats: Sequence[Seat], costs: StepCosts) -> list[DraftLimits]:
        return [self._limits(seat, _share(seat, seats, costs)) for seat in seats]

    def widths(
        self,
        level: int,
        frontiers: Sequence[Frontier],
        costs: StepCosts,  # noqa: ARG002
    ) -> list[int]:
        return OpenGate().widths(level, frontiers)

    def choose(
        self, trees: Sequence[DraftTree], seats: Sequence[Seat], costs: StepCosts
    ) -> list[DraftTree]:
        return [
            tree.best(_share(seat, seats, costs)) for tree, seat in zip(trees, seats, strict=True)
        ]

    def plan(
        self,
        frontiers: Sequence[Frontier],
        costs: StepCosts,  # noqa: ARG002
    ) -> StepShape:
        limits = [one.limits for one in frontiers]
        depths = [min(one.max_levels, one.max_depth) for one in limits]
        levels = [
            sum(
                min(one.level_width, one.max_width**level)
                for one, depth in zip(limits, depths, strict=True)
                if level < depth
            )
            for level in range(1, max(depths, default=0))
        ]
        num_nodes = sum(one.max_nodes for one in limits)
        return StepShape((True,) * len(limits), tuple(levels), num_nodes)

    def _limits(self, seat: Seat, size: int) -> DraftLimits:
        return DraftLimits(
            max_nodes=size,
            max_depth=min(size, seat.max_depth, self.depth),
            max_width=min(size, self.width),
            max_levels=seat.levels or self._levels(size),
            level_width=self.level_width,
        )

    def _levels(self, size: int) -> int:
        raise NotImplementedError


class TreeBuilder(_Fixed):
    """The likeliest nodes, whatever shape they make; a level for every four, unless told."""

    def _levels(self, size: int) -> int:
        return min(_LEVELS, max(1, size // 4))


class ChainBuilder(_Fixed):
    """The single most likely continuation: every token needs a level."""

    depth = 1024
    width = 1
    level_width = 1

    def choose(
        self, trees: Sequence[DraftTree], seats: Sequence[Seat], costs: StepCosts
    ) -> list[DraftTree]:
        return [
            tree.as_chain(_share(seat, seats, costs))
            for tree, seat in zip(trees, seats, strict=True)
        ]

    def _levels(self, size: int) -> int:
        return size


class Eagle2Builder(_Fixed):
    """EAGLE-2's tree (arXiv 2406.16858) as its evaluation runs it: 60 rows with the root, 10
    nodes a level with 10 children each, 5 levels after the root's."""

    depth = 6
    width = 10
    level_width = 10

    def _levels(self, size: int) -> int:  # noqa: ARG002
        return self.depth


def _share(seat: Seat, seats: Sequence[Seat], costs: StepCosts) -> int:
    return max(0, min(seat.size, costs.max_nodes // max(1, len(seats))))
