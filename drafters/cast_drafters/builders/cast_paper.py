"""CAST as published (arXiv 2510.26577): three thresholds, one shape for the whole batch.

Breadth: a level keeps as many nodes as have a marginal utility over marginal draft cost above C1.
Depth: the next level is drafted while its foreseen utility over cost reaches C2. Reranking: as many
nodes are verified as have a marginal utility over marginal target cost above C3. Utility is the
mean over the batch of the summed path confidences; cost is in steps of plain decoding. What the
paper leaves open follows its readers' reconstructions: the history of gain ratios spans rounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cast_drafters.base import DraftLimits, Frontier
from cast_drafters.builders.base import Builder, Seat, StepCosts
from cast_drafters.builders.fixed import NO_DRAFTS
from cast_drafters.tree import DraftTree

_WIDTH: Final = 10  # children of a node, EAGLE's default
_DEPTH: Final = 8
_HISTORY: Final = 8  # ratios looked back on


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Utility that a plain step's worth of cost must bring: breadth, depth, reranking.

    The paper tunes them once for each model. These are figures that it names; nobody has swept them
    on the default model yet, which `cast_bench.paper_thresholds` is for.
    """

    breadth: float = 4.0
    depth: float = 3.0
    reranking: float = 2.5


class CastPaperBuilder(Builder):
    """Widths and the number of verified nodes are common to all sequences, topology is not."""

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self._thresholds = thresholds or Thresholds()
        self._ratios: deque[float] = deque([1.0], maxlen=_HISTORY)
        self._utility = 0.0  # of the last level

    def limits(self, seats: Sequence[Seat], costs: StepCosts) -> list[DraftLimits]:
        self._utility = 0.0
        return [self._limits(seat, costs) for seat in seats]

    def widths(self, level: int, frontiers: Sequence[Frontier], costs: StepCosts) -> list[int]:
        if level == 0:
            return [len(one.log_probs) for one in frontiers]
        most = max((len(one.log_probs) for one in frontiers), default=0)
        if not most or level >= _DEPTH:
            return [0] * len(frontiers)
        utility_K = _mean_utility([np.exp(one.log_probs) for one in frontiers], most)
        base = costs.verify(0)
        cost_K = [costs.draft(k * len(frontiers)) / base for k in range(1, most + 1)]
        width = max_valid_index(utility_K.tolist(), cost_K, self._thresholds.breadth)
        utility, cost = float(utility_K[width - 1]), cost_K[width - 1]
        if self._utility:
            self._ratios.append(utility / self._utility)
        self._utility = utility
        alpha = sum(self._ratios) / len(self._ratios)
        if alpha * utility / cost < self._thresholds.depth:
            return [0] * len(frontiers)
        return [min(width, len(one.log_probs)) for one in frontiers]

    def choose(
        self, trees: Sequence[DraftTree], seats: Sequence[Seat], costs: StepCosts
    ) -> list[DraftTree]:
        most = min(max(map(len, trees), default=0), costs.max_nodes // max(1, len(trees)))
        if not most:
            return [tree.best(0) for tree in trees]
        utility_K = _mean_utility([np.sort(np.exp(one.log_probs_T))[::-1] for one in trees], most)
        base = costs.verify(0)
        cost_K = [costs.verify(k * len(trees)) / base for k in range(1, most + 1)]
        size = max_valid_index(utility_K.tolist(), cost_K, self._thresholds.reranking)
        return [tree.best(min(size, seat.size)) for tree, seat in zip(trees, seats, strict=True)]

    def _limits(self, seat: Seat, costs: StepCosts) -> DraftLimits:
        size = min(seat.size, costs.max_nodes)
        if size <= 0 or seat.max_depth <= 0:
            return NO_DRAFTS
        return DraftLimits(
            max_nodes=size,
            max_depth=min(_DEPTH, seat.max_depth),
            max_width=_WIDTH,
            max_levels=seat.levels or _DEPTH,
            level_width=_WIDTH,
        )


def max_valid_index(utility: Sequence[float], cost: Sequence[float], threshold: float) -> int:
    """Algorithm 1, 1-based: the last index whose marginal utility over marginal cost since the
    previous such index exceeds the threshold. Where cost does not rise, more is always taken."""
    last = 0
    for index in range(1, len(utility)):
        rise = cost[index] - cost[last]
        gain = utility[index] - utility[last]
        if gain > threshold * rise:
            last = index
    return last + 1


def _mean_utility(falling: Sequence[NDArray[np.float64]], length: int) -> NDArray[np.float64]:
    """Mean over the batch of the sums of the first 1, 2, … values; short ones stay as they end."""
    total = np.zeros(length)
    for values in falling:
        padded = np.zeros(length)
        padded[: min(length, len(values))] = values[:length]
        total += np.cumsum(padded)
    mean: NDArray[np.float64] = total / max(1, len(falling))
    return mean
