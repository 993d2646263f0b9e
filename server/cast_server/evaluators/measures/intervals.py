"""How sure a number over few samples is: bootstrap (Efron 1979) and Wilson (1927).

Percentile intervals of few samples are too narrow; below about ten, read them as a hint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cast_server.evaluators.base import Undefined

_RESAMPLES: Final = 2000
_QUANTILES: Final = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Interval:
    """Of 95 %."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Mean:
    """Of `count` samples. sd: theirs, with count - 1; None for a single one, as is the interval."""

    count: int
    value: float
    sd: float | None
    interval: Interval | None


def mean(samples: Sequence[float], seed: int = 0) -> Mean:
    """With a bootstrap interval of `seed`. Raises Undefined: no_samples."""
    if not samples:
        raise Undefined("no_samples")
    values_N = np.asarray(samples, np.float64)
    value = float(values_N.mean())
    if len(values_N) < 2:
        return Mean(len(values_N), value, None, None)
    interval = Interval(*bootstrap_interval(samples, seed=seed))
    return Mean(len(values_N), value, float(values_N.std(ddof=1)), interval)


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, seed: int = 0, resamples: int = _RESAMPLES
) -> tuple[float, float]:
    """Percentile interval of the mean of `values`, at least one, drawn again with replacement."""
    means_R = resampled_means(np.asarray([values], np.float64), seed, resamples)[0]
    low, high = np.quantile(means_R, ((1 - confidence) / 2, (1 + confidence) / 2)).tolist()
    return low, high


def paired_difference(
    ones: Sequence[float | None], others: Sequence[float | None], seed: int = 0
) -> Mean:
    """Of other less one, sample by sample; pairs of which one is None are left out.

    ValueError for lists of unequal length. Raises Undefined: no_samples.
    """
    pairs = zip(ones, others, strict=True)
    return mean([b - a for a, b in pairs if a is not None and b is not None], seed)


def standard_deviation(samples: Sequence[float]) -> float:
    """Of a sample, with count - 1. Raises Undefined: fewer_than_2_samples."""
    if len(samples) < 2:
        raise Undefined("fewer_than_2_samples")
    return float(np.std(samples, ddof=1))


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Of a proportion (Wilson 1927): inside [0, 1], and no point at 0 or 1.
    Raises Undefined: no_samples."""
    if not total:
        raise Undefined("no_samples")
    share = successes / total
    weight = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / total
    centre = (share + weight / 2) / (1 + weight)
    radius = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    low = 0.0 if successes == 0 else centre - radius
    return low, 1.0 if successes == total else centre + radius


def resampled_means(
    values_SN: NDArray[np.float64], seed: int = 0, resamples: int = _RESAMPLES
) -> NDArray[np.float64]:
    """Means of samples (N) drawn with replacement, the same ones for all series: [S, resamples].
    One resample at a time: all of 20 000 samples would be hundreds of megabytes."""
    generator = np.random.default_rng(seed)
    num_samples = values_SN.shape[1]
    draws = (generator.integers(0, num_samples, num_samples) for _ in range(resamples))
    return np.stack([values_SN[:, drawn_N].mean(1) for drawn_N in draws], axis=1)


def percentiles(resampled: NDArray[np.float64]) -> Interval:
    """The middle 95 %."""
    low, high = np.quantile(resampled, _QUANTILES).tolist()
    return Interval(low, high)
