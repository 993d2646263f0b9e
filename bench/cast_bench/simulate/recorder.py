"""Asks a drafter at every position all that any policy might ask, and verifies none of it.

For each width the drafter proposes once without a pass, then with one level, with two …: the
difference between one tree and the next is what a level's passes have given, and what they have
replaced. So any `Drafter` can be recorded, by nothing but its protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cast_bench.simulate.trace import NO_NODES, NODE, Nodes
from cast_drafters.base import DraftContext, Drafter, DraftLimits, Frontier, LevelGate, VerifyResult
from cast_drafters.calibration import Calibration
from cast_drafters.tree import EMPTY_TREE, DraftTree

_DEEPEST: Final = 64


@dataclass(frozen=True, slots=True)
class Reach:
    """How wide and deep is recorded. A level runs as many nodes of a tree as it has width."""

    widths: tuple[int, ...] = (1, 4, 10)
    levels: int = 8
    nodes: int = 64

    def limits(self, width: int) -> DraftLimits:
        return DraftLimits(self.nodes, _DEEPEST, width, self.levels, width)


class Recorder(Drafter):
    """Stands in for `inner` in an engine that decodes plainly. What `inner` knows of how far its
    guesses can be trusted stays as it is.

    `tries[request][width][p]`: nodes behind p tokens of output; nothing is accepted yet.
    """

    def __init__(self, inner: Drafter, reach: Reach) -> None:
        self.name = inner.name
        self.inner, self._reach = inner, reach
        self.tries: dict[str, dict[int, dict[int, Nodes]]] = {}
        self.has_passes, self.is_batched = False, True

    @property
    def calibration(self) -> Calibration:  # type: ignore[override]
        return self.inner.calibration

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        self.tries[request_id] = {width: {} for width in self._reach.widths}
        self.inner.begin(request_id, token_ids)

    def propose(
        self,
        contexts: Sequence[DraftContext],
        gate: LevelGate | None = None,  # noqa: ARG002 - nothing of it is for the step
    ) -> list[DraftTree]:
        for width in self._reach.widths:
            for one, nodes in zip(contexts, self._look(contexts, width), strict=True):
                self.tries[one.request_id][width][one.num_output] = nodes
        return [EMPTY_TREE] * len(contexts)

    def observe(self, results: Sequence[VerifyResult]) -> None:
        """Nothing was drafted."""

    def release(self, request_id: str) -> None:
        self.inner.release(request_id)

    def _look(self, contexts: Sequence[DraftContext], width: int) -> list[Nodes]:
        limits = self._reach.limits(width)
        asked = [
            DraftContext(
                one.request_id,
                one.token_ids,
                limits,
                one.temperature,
                one.seed,
                one.slots_L,
                one.num_output,
                one.owner,
            )
            for one in contexts
        ]
        tries = [_Trie() for _ in asked]
        for levels in range(self._reach.levels + 1):
            gate = _Gate(levels)
            trees = self.inner.propose(asked, gate)
            for context, trie, tree in zip(asked, tries, trees, strict=True):
                trie.add(tree, gate.runs.get(context.request_id, []))
            self.has_passes |= gate.count > 0
            self.is_batched &= gate.most == len(asked) or not gate.count
            if levels and not gate.reached:
                break  # no level beyond finds anything to run
        return [one.nodes() for one in tries]


@dataclass(slots=True)
class _Gate(LevelGate):
    """So many levels, as wide as they can be; `runs` are the log-probabilities of the nodes that
    each has run, by request, the root's left out."""

    levels: int
    runs: dict[str, list[tuple[int, list[float]]]] = field(default_factory=dict)
    count: int = 0
    most: int = 0
    reached: bool = False  # the last level has run something

    def widths(self, level: int, frontiers: Sequence[Frontier]) -> list[int]:
        self.count += 1
        self.most = max(self.most, len(frontiers))
        return [len(one.log_probs) if level < self.levels else 0 for one in frontiers]

    def ran(
        self,
        level: int,
        frontiers: Sequence[Frontier],
        children: Sequence[Sequence[Sequence[float]]],
    ) -> None:
        self.reached |= level == self.levels - 1 and any(children)
        for one, found in zip(frontiers, children, strict=True):
            run = self.runs.setdefault(one.request_id, [])
            if found:
                run.append((level, list(one.log_probs[: len(found)])))


@dataclass(slots=True)
class _Trie:
    """Trees of one position, merged. Nodes are the same if their paths are, passes and all."""

    rows: list[list[float]] = field(default_factory=list)
    _places: dict[tuple[int, bool, int], int] = field(default_factory=dict)

    def add(self, tree: DraftTree, runs: Sequence[tuple[int, list[float]]]) -> None:
        level_of = _levels(tree, runs)
        places = {-1: -1}
        columns = (
            tree.token_ids_T.tolist(),
            tree.parents_T.tolist(),
            tree.depths_T.tolist(),
            _or_zeros(tree.ranks_T, tree).tolist(),
            _or_zeros(tree.sources_T, tree).tolist(),
            _or_zeros(tree.confidences_T, tree).tolist(),
            tree.log_probs_T.tolist(),
        )
        for node, values in enumerate(zip(*columns, strict=True)):
            token, parent, depth, rank, source, confidence, log_prob = values
            is_free = parent not in level_of
            key = (places[parent], is_free, token)
            place = places[node] = self._places.setdefault(key, len(self.rows))
            if place == len(self.rows):
                row = [token, places[parent], depth, rank, source, -1, is_free, False]
                self.rows.append([*row, confidence, log_prob])
            if node in level_of:
                self.rows[place][5] = level_of[node]

    def nodes(self) -> Nodes:
        if not self.rows:
            return NO_NODES
        return np.array([tuple(row) for row in self.rows], NODE)


def _levels(tree: DraftTree, runs: Sequence[tuple[int, list[float]]]) -> dict[int, int]:
    """Which level has run which node; -1 is the root. Frontiers tell nodes by the log-probability
    of their paths; of equal ones, the first comes first."""
    levels: dict[int, int] = {}
    log_probs = tree.log_probs_T.tolist()
    for level, run in runs:
        if level == 0:
            levels[-1] = 0
            continue
        for value in run:
            alike = (i for i, one in enumerate(log_probs) if one == value and i not in levels)
            node = next(alike, None)
            if node is not None:
                levels[node] = level
    return levels


def _or_zeros(values_T: NDArray[Any] | None, tree: DraftTree) -> NDArray[Any]:
    return np.zeros(len(tree), np.int64) if values_T is None else values_T
