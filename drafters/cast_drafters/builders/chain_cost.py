"""Cost-aware chains: how many tokens to draft and how many of them to verify, by measured cost.

The idea that vLLM ships as adaptive verification: the likeliest positions of all requests' chains,
as many as make the step's tokens over its seconds largest. Here the number of drafted levels is
chosen by the same ratio, from what each depth has been worth of late; none is plain decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cast_drafters.allocation import keep_likeliest
from cast_drafters.base import DraftLimits, Frontier
from cast_drafters.builders.base import Builder, Seat, StepCosts
from cast_drafters.builders.fixed import NO_DRAFTS
from cast_drafters.tree import DraftTree

_MOST_LEVELS: Final = 8
_FADE: Final = 0.02
_LOOK_EVERY: Final = 64  # steps of plain decoding before it drafts again, to see


class ChainCostBuilder(Builder):
    """Survival by depth is an average over all sequences."""

    def __init__(self) -> None:
        self._survival_D = 0.6 ** np.arange(1, _MOST_LEVELS + 1)
        self._idle = 0
        self._drafted = 0.0  # seconds of drafting in this step

    def limits(self, seats: Sequence[Seat], costs: StepCosts) -> list[DraftLimits]:
        self._drafted = 0.0
        levels = self._levels(len(seats), costs)
        self._idle = 0 if levels else self._idle + 1
        if self._idle > _LOOK_EVERY:
            self._idle, levels = 0, 1
        return [_chain(min(levels, seat.size, seat.max_depth, costs.max_nodes)) for seat in seats]

    def widths(self, level: int, frontiers: Sequence[Frontier], costs: StepCosts) -> list[int]:
        widths = [
            min(1, len(one.log_probs)) if level < one.limits.max_levels else 0 for one in frontiers
        ]
        rows = [w * one.num_rows for w, one in zip(widths, frontiers, strict=True)]
        self._drafted += costs.draft(sum(rows))
        return widths

    def choose(
        self,
        trees: Sequence[DraftTree],
        seats: Sequence[Seat],
        costs: StepCosts,
    ) -> list[DraftTree]:
        chains = [tree.as_chain(seat.size) for tree, seat in zip(trees, seats, strict=True)]
        self._learn(chains)

        def size(survival: NDArray[np.float64]) -> int:
            tokens = len(chains) + np.append(0.0, np.cumsum(survival))
            seconds = self._drafted + np.array([costs.verify(n) for n in range(len(tokens))])
            return int((tokens / seconds).argmax())

        return keep_likeliest(chains, size, costs.max_nodes)

    def _levels(self, num_sequences: int, costs: StepCosts) -> int:
        """The number of levels with the best expected rate, all their tokens being verified."""
        rates = []
        for levels in range(_MOST_LEVELS + 1):
            tokens = num_sequences * (1 + self._survival_D[:levels].sum())
            seconds = levels * costs.draft(num_sequences) + costs.verify(levels * num_sequences)
            rates.append(tokens / seconds)
        return int(np.argmax(rates))

    def _learn(self, chains: Sequence[DraftTree]) -> None:
        """Calibrated probabilities stand for acceptance: they are known for rejected levels too."""
        for depth in range(_MOST_LEVELS):
            seen = [math.exp(one.log_probs_T[depth]) for one in chains if len(one) > depth]
            if seen:
                share = 1 - (1 - _FADE) ** len(seen)
                self._survival_D[depth] += share * (np.mean(seen) - self._survival_D[depth])


def _chain(length: int) -> DraftLimits:
    if length <= 0:
        return NO_DRAFTS
    return DraftLimits(length, length, max_width=1, max_levels=length, level_width=1)
