"""A draft tree while it grows: level by level where a head must run, best first where nothing must.

Every source of guesses gives a node's children with confidences, the calibration makes
probabilities of them; the tree keeps the most likely paths, whichever source they came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Final, NamedTuple

import numpy as np

from cast_drafters.base import DraftLimits
from cast_drafters.calibration import Calibration, Kind
from cast_drafters.tree import DraftTree

ROOT: Final = -1


class Guess(NamedTuple):
    """A token and its natural log-probability given the node before; `source` as in `DraftTree`."""

    token: int
    log_prob: float
    source: int = 0


class Child(NamedTuple):
    """A guess and what it is worth: natural log-probability given the parent."""

    guess: Guess
    rank: int
    log_prob: float


@dataclass(slots=True)
class Node:
    """`log_prob` is that of the path; `confidence` the drafter's own, given the parent."""

    token: int
    parent: int
    depth: int
    log_prob: float
    source: int
    confidence: float
    rank: int
    has_children: bool = False


class GrowingTree:
    """Candidates of one sequence. `ROOT` is the root, the last committed token."""

    def __init__(
        self,
        tail: Sequence[int],
        limits: DraftLimits,
        calibration: Calibration | None = None,
        is_sampled: bool = False,
    ) -> None:
        self.nodes: list[Node] = []
        self.limits = limits
        self._calibration, self._is_sampled = calibration, is_sampled
        self._tail = list(tail)

    def tail(self, node: int, length: int) -> list[int]:
        """The last `length` tokens up to and with a node, those of the sequence first."""
        path: list[int] = []
        while node >= 0 and len(path) < length:
            path.append(self.nodes[node].token)
            node = self.nodes[node].parent
        path.reverse()
        missing = length - len(path)
        return self._tail[-missing:] + path if missing else path

    def children(self, node: int, guesses: Iterable[Guess]) -> list[Child]:
        """The likeliest few guesses, as they would be behind a node; falling."""
        depth = self.depth(node) + 1
        best = nlargest(self.limits.max_width, guesses, key=_log_prob)
        children = [
            Child(one, rank, self._worth(one, depth, rank)) for rank, one in enumerate(best)
        ]
        return sorted(children, key=_worth, reverse=True)

    def add(self, node: int, children: Iterable[Child]) -> None:
        """Children whose paths are of use stay."""
        above = self.nodes[node].log_prob if node >= 0 else 0.0
        depth = self.depth(node) + 1
        step = (
            self._calibration.step_log_prob(self._is_sampled, depth) if self._calibration else 0.0
        )
        for (token, confidence, source), rank, log_prob in children:
            path = above + min(0.0, log_prob + step)
            if path < self.limits.least:
                break
            self.nodes.append(Node(token, node, depth, path, source, confidence, rank))
        if node >= 0:
            self.nodes[node].has_children = True

    def add_children(self, node: int, guesses: Iterable[Guess]) -> None:
        self.add(node, self.children(node, guesses))

    def depth(self, node: int) -> int:
        return self.nodes[node].depth if node >= 0 else 0

    def frontier(self, width: int) -> list[int]:
        """The likeliest nodes without children that could still have some in the final tree."""
        least = self._least()
        open_nodes = [
            index
            for index, node in enumerate(self.nodes)
            if not node.has_children
            and node.depth < self.limits.max_depth
            and node.log_prob > least
        ]
        return nlargest(width, open_nodes, key=lambda index: self.nodes[index].log_prob)

    def ancestors(self, node: int) -> list[int]:
        """The node itself and those above it, without the root."""
        path: list[int] = []
        while node >= 0:
            path.append(node)
            node = self.nodes[node].parent
        return path

    def finish(self) -> DraftTree:
        """The best `max_nodes` nodes."""
        everything = DraftTree(
            np.array([node.token for node in self.nodes], np.int64),
            np.array([node.parent for node in self.nodes], np.int32),
            np.array([node.log_prob for node in self.nodes], np.float64),
            np.array([node.source for node in self.nodes], np.int8),
            np.array([node.confidence for node in self.nodes], np.float64),
            np.array([node.rank for node in self.nodes], np.int16),
        )
        return everything.best(self.limits.max_nodes)

    def _worth(self, guess: Guess, depth: int, rank: int) -> float:
        if self._calibration is None:
            return min(0.0, guess.log_prob)
        kind = Kind.of(self._is_sampled, guess.source, depth, rank)
        return self._calibration.log_prob(kind, guess.log_prob)

    def _least(self) -> float:
        """What a path must be worth to be among the best `max_nodes` so far."""
        if len(self.nodes) < self.limits.max_nodes:
            return -np.inf
        best = nlargest(self.limits.max_nodes, (node.log_prob for node in self.nodes))
        return float(best[-1])


def _log_prob(guess: Guess) -> float:
    return guess.log_prob


def _worth(child: Child) -> float:
    return child.log_prob
