"""How far a figure may be off, from the sample that it was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion: sensible at 0 and 1 too. `total` is at least 1."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = successes / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / total / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile interval of the mean of `values`, at least one, drawn again with replacement."""
    sample_N = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    # one resample at a time: 20,000 items would otherwise take hundreds of megabytes
    means_R = np.array([generator.choice(sample_N, len(sample_N)).mean() for _ in range(resamples)])
    low, high = np.quantile(means_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
