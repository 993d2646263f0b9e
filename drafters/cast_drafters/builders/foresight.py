"""The shape of a step before any of it is known: drafted once with what passes have usually found.

A node that the drafter runs gets the children that such nodes have had of late, on average. Where
it is not run, what free sources say of the root goes on as it began. On these trees the builder is
asked for widths, level by level, and the price for how much to verify.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from cast_drafters.allocation import best_size
from cast_drafters.base import Frontier
from cast_drafters.builders.base import StepCosts, StepShape
from cast_drafters.builders.prospects import Prospects

Widths = Callable[[int, Sequence[Frontier]], list[int]]


@dataclass(slots=True)
class _ExpectedTree:
    """Probabilities of paths: of `open` nodes, falling, which might be run, and of all."""

    frontier: Frontier
    open: list[float] = field(default_factory=list)
    nodes: list[float] = field(default_factory=list)

    def run(self, parents: Sequence[float], children: Sequence[float]) -> None:
        """Each of the parents gets such children, of which some are of no use."""
        limits = self.frontier.limits
        least = math.exp(limits.least)
        shares = list(children[: limits.max_width])
        found = [above * share for above in parents for share in shares if above * share > least]
        self.nodes += found
        self.open = sorted([*self.open, *found], reverse=True)

    def go_on_for_nothing(self) -> None:
        """The likeliest guess at the root is taken for what comes behind it as well."""
        limits = self.frontier.limits
        least = math.exp(limits.least)
        [children] = self.frontier.free(1)
        self.nodes += [p for p in children if p > least]
        first = max(children, default=0.0)
        chain = (first**depth for depth in range(2, min(limits.max_nodes, limits.max_depth) + 1))
        self.nodes += takewhile(lambda p: p > least, chain)

    def next_frontier(self) -> Frontier:
        logs = [math.log(p) for p in self.open[: self.frontier.limits.level_width]]
        nodes = [math.log(p) for p in self.nodes]
        return replace(
            self.frontier, log_probs=logs, num_rows=1, candidates=nodes, free=lambda n: [[]] * n
        )


def foresee(
    widths: Widths,
    prospects: Prospects,
    weights: Sequence[float],
    frontiers: Sequence[Frontier],
    costs: StepCosts,
) -> StepShape:
    """`frontiers` are the roots'; `weights` what a token of each is worth."""
    roots = [width > 0 for width in widths(0, frontiers)]
    trees = [_ExpectedTree(one) for one in frontiers]
    for tree, is_run in zip(trees, roots, strict=True):
        if is_run:
            tree.run([1.0], prospects.usual(0, tree.frontier.free(1)[0]))
        else:
            tree.go_on_for_nothing()
    levels: list[int] = []
    for level in range(1, max((one.limits.max_levels for one in frontiers), default=0)):
        chosen = widths(level, [tree.next_frontier() for tree in trees])
        if not sum(chosen):
            break
        levels.append(sum(chosen))
        for tree, width in zip(trees, chosen, strict=True):
            run, tree.open = tree.open[:width], tree.open[width:]
            tree.run(run, prospects.usual(level, ()))
    return StepShape(tuple(roots), tuple(levels), _num_nodes(trees, weights, costs))


def _num_nodes(trees: Sequence[_ExpectedTree], weights: Sequence[float], costs: StepCosts) -> int:
    """As `allocate` would have it."""
    gains = sorted(
        (
            weight * p
            for tree, weight in zip(trees, weights, strict=True)
            for p in sorted(tree.nodes, reverse=True)[: tree.frontier.limits.max_nodes]
        ),
        reverse=True,
    )[: costs.max_nodes]
    seconds = [costs.verify(count) for count in range(len(gains) + 1)]
    return best_size(gains, seconds, costs.price)
