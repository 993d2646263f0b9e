"""Histograms that one thread fills and others may read, without a lock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts of values up to each of `bounds` (rising, inclusive) and beyond the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0  # sum of all values

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def copy(self) -> Histogram:
        """As it is now. Its count always is the sum of its buckets, whoever writes meanwhile."""
        one = Histogram(self.bounds)
        one.counts, one.total = list(self.counts), self.total
        return one

    @property
    def count(self) -> int:
        return sum(self.counts)
