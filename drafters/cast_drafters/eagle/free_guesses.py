"""What costs a head no pass: guesses of the text and of the store, beside its own or alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cast_drafters.base import DraftContext
from cast_drafters.eagle.growing import Growth
from cast_drafters.growth import ROOT, Child, Guess
from cast_drafters.pool import NOTHING, NUM_DEPTHS, Pool, Prediction
from cast_drafters.sources import TAIL, Source


@dataclass(frozen=True, slots=True)
class FreeGuesses:
    """`text` and `store` are numbers 1 and 2 of `SOURCES`, where there are such."""

    text: Source | None
    store: Source | None
    pool: Pool

    @property
    def sources(self) -> list[Source]:
        return [source for source in (self.text, self.store) if source is not None]

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        for source in self.sources:
            source.begin(request_id, token_ids)

    def release(self, request_id: str) -> None:
        for source in self.sources:
            source.release(request_id)

    def read(self, contexts: Sequence[DraftContext]) -> None:
        """What has been committed since."""
        for one in contexts:
            for source in self.sources:
                source.extend(one.request_id, one.token_ids)
                source.own(one.request_id, one.owner)

    def children(self, growth: Growth, node: int, head: Prediction | None) -> list[Child]:
        """Of a node that the head says this of; None: where it does not run."""
        if not self.sources:
            guesses = head.guesses if head is not None else ()
            return growth.tree.children(node, [Guess(t, math.log(p)) for t, p in guesses if p])
        depth = growth.tree.depth(node) + 1 if head is not None else 0
        text, store = self._look_up(growth, node)
        return growth.tree.children(node, self.pool.blend(depth, head or NOTHING, text, store))

    def at_root(self, growth: Growth) -> tuple[list[Child], float]:
        """What follows the root beside the head's own guesses, and the logarithm of how far these
        are to be believed there. Children for nothing are noted in `growth.free`."""
        if not self.sources:
            growth.free[ROOT] = []
            return [], 0.0
        text, store = self._look_up(growth, ROOT)
        tree, pool = growth.tree, self.pool
        growth.free[ROOT] = tree.children(ROOT, pool.blend(0, NOTHING, text, store))
        beside = tree.children(ROOT, pool.blend(1, NOTHING, text, store))
        return beside, pool.trust(1, text.order, store.order)

    def trust(self) -> list[float]:
        """As of `at_root`, by depth from 0 on, where neither text nor store knows anything."""
        depths = range(NUM_DEPTHS)
        return [self.pool.trust(depth, 0, 0) if self.sources else 0.0 for depth in depths]

    def go_on(self, growth: Growth, most: int | None = None) -> None:
        """Best first, until nothing that joins could still be among the best; at most so many nodes
        are given children."""
        if not self.sources:
            return
        if growth.place is None:
            growth.tree.add(ROOT, growth.free.get(ROOT) or self.children(growth, ROOT, None))
        for _ in range(growth.context.limits.max_nodes if most is None else most):
            open_nodes = growth.tree.frontier(1)
            if not open_nodes:
                return
            [node] = open_nodes
            growth.tree.add(node, growth.free.get(node) or self.children(growth, node, None))

    def _look_up(self, growth: Growth, node: int) -> tuple[Prediction, Prediction]:
        tail = growth.tree.tail(node, TAIL)
        request_id, width = growth.context.request_id, growth.context.limits.max_width
        text, store = (
            source.predict(request_id, tail, width) if source is not None else NOTHING
            for source in (self.text, self.store)
        )
        return text, store
