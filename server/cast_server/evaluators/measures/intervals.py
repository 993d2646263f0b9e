"""How sure a proportion over few samples is."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Of a proportion (Wilson 1927): inside [0, 1], and no point at 0 or 1. total: at least 1."""
    share = successes / total
    weight = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / total
    centre = (share + weight / 2) / (1 + weight)
    radius = sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    low = 0.0 if successes == 0 else centre - radius
    return low, 1.0 if successes == total else centre + radius
