"""Ratios of two sides that ran in turns, with intervals: a bootstrap over rounds (Efron 1979).

Noise of a machine comes in stretches, so a side is compared with the other one of the same round
only; the figure is the median over rounds.

Few rounds cannot say how far the median is off. In a simulation with normal noise the interval of
two rounds held the truth in 50 % of all cases instead of 95 %, of three in 74 %, of five and more
in 93 % or more; that of a mean over six cells in 79 %, 97 % and 97 % or more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

_RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median, and the middle 95 % of medians of resampled rounds; NaN where nothing was counted."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(speeds: Sequence[float], base: Sequence[float], seed: int = 0) -> Ratio:
    """speeds[i] and base[i] are from round i. With one round, the interval is a point."""
    return geometric_mean([(speeds, base)], seed)


def geometric_mean(
    cells: Sequence[tuple[Sequence[float], Sequence[float]]], seed: int = 0
) -> Ratio:
    """Of the ratios of several cells (speeds, base), each resampled by itself.

    NaN if there are none, or if a side of one of them has a round in which nothing was counted.
    """
    if not all(len(one) and all(one) and all(other) for one, other in cells) or not cells:
        return Ratio(math.nan, math.nan, math.nan)
    logs = [np.log(np.array(one) / np.array(other)) for one, other in cells]
    generator = np.random.default_rng(seed)
    resampled = np.mean(
        [
            np.median(values[generator.integers(0, len(values), (_RESAMPLES, len(values)))], axis=1)
            for values in logs
        ],
        axis=0,
    )
    low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
    middle = float(np.mean([np.median(values) for values in logs]))
    return Ratio(math.exp(middle), math.exp(low), math.exp(high))
