"""What has grown on the device, read back: trees like any other.

Shape suffixes: C candidates, T nodes of a tree, N rows verified.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cast_drafters.base import DraftContext, Frontier
from cast_drafters.tree import DraftTree

NUM_FIELDS = 9


class Reading:
    """report_9C: int32, of `Forest.report`; node_N, sequence_N: those to verify, by sequence."""

    def __init__(
        self, report_9C: NDArray[np.int32], node_N: NDArray[np.int32], sequence_N: NDArray[np.int32]
    ) -> None:
        self.token_C, self.parent_C, self.sequence_C = report_9C[:3]
        self.source_C, self.rank_C, self.level_C = report_9C[4:7]
        self.log_prob_C, self.confidence_C = report_9C[7:].view(np.float32).astype(np.float64)
        self._is_real_C = np.isfinite(self.log_prob_C)
        self._node_N, self._sequence_N = node_N, sequence_N

    def nodes_of(self, place: int) -> NDArray[np.intp]:
        """All candidates of a sequence."""
        return np.flatnonzero(self._is_real_C & (self.sequence_C == place))

    def verified(self, place: int) -> DraftTree:
        return self.tree(self._node_N[self._sequence_N == place])

    def tree(self, node_T: NDArray[np.integer]) -> DraftTree:
        """Of nodes of one sequence, rising, with those above them."""
        number_C = np.full(len(self.token_C) + 1, -1, np.int32)  # its last is what -1 finds
        number_C[node_T] = np.arange(len(node_T))
        return DraftTree(
            self.token_C[node_T].astype(np.int64),
            number_C[self.parent_C[node_T]],
            self.log_prob_C[node_T],
            self.source_C[node_T].astype(np.int8),
            self.confidence_C[node_T],
            self.rank_C[node_T].astype(np.int16),
        )

    @property
    def num_levels(self) -> int:
        """Behind the roots'."""
        return int(self.level_C[:-1].max(initial=0))

    def level(
        self, level: int, places: Sequence[int], contexts: Sequence[DraftContext]
    ) -> tuple[list[Frontier], list[list[list[float]]]]:
        """For `LevelGate.ran`: the nodes that were run in a level from 1 on, and the conditional
        probabilities of the children they have now."""
        frontiers, found = [], []
        for place, context in zip(places, contexts, strict=True):
            nodes = self.nodes_of(place)
            run = nodes[self.level_C[nodes] == level]
            log_probs = self.log_prob_C[run].tolist()
            frontiers.append(
                Frontier(context.request_id, context.limits, log_probs, 1, (), _nothing)
            )
            found.append([self._children(nodes, node) for node in run.tolist()])
        return frontiers, found

    def roots(self, places: Sequence[int]) -> list[list[list[float]]]:
        """Likewise, of roots that were run."""
        return [[self._children(self.nodes_of(place), -1)] for place in places]

    def _children(self, nodes: NDArray[np.intp], parent: int) -> list[float]:
        above = float(self.log_prob_C[parent]) if parent >= 0 else 0.0
        own = self.log_prob_C[nodes[self.parent_C[nodes] == parent]]
        return [math.exp(one - above) for one in sorted(own.tolist(), reverse=True)]


def _nothing(count: int) -> list[list[float]]:
    return [[]] * count
