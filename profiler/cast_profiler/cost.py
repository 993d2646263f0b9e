"""What a step costs: the protocol, a measured table, and a roofline where nothing was measured.

Seconds are wall-clock seconds of one pass. Rows are tokens computed in it, of all sequences; keys
are the tokens of context that its sequences attend to, added up.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


class CostModel(Protocol):
    """Predicts passes of the target (verification) and of the drafter (one level).

    `sequences` share a pass; `keys` are those of all of them.
    """

    def verify_seconds(self, rows: int, keys: int, sequences: int = 1) -> float: ...

    def draft_seconds(self, rows: int, keys: int, sequences: int = 1) -> float: ...


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds by number of rows, measured, plus prices for what those passes had little of: for
    each key of context, for each product of attention (rows times the keys of one sequence, as if
    all had as many), and for each sequence after the first.

    Straight lines between measured points: the curve may fall, as measured ones do where a product
    switches to another algorithm. Where passes are padded to `buckets`, rising numbers of rows, a
    pass costs what its bucket costs, and above the largest bucket what its rows do.
    Extrapolation: below the first point its time, beyond the last one the slope of the last two
    points (of the line through zero, if there is only one), never falling.

    Raises `ValueError` if the points are not at rising numbers of rows or not positive.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    seconds_per_key: float = 0.0
    keys_at_measurement: int = 0
    seconds_per_sequence: float = 0.0
    buckets: tuple[int, ...] = ()
    seconds_per_product: float = 0.0

    def __post_init__(self) -> None:
        if not self.rows or len(self.rows) != len(self.seconds):
            raise ValueError(f"Need as many times as rows, got {self.seconds} for {self.rows}.")
        for sizes in (self.rows, self.buckets):
            if any(a >= b for a, b in pairwise(sizes)):
                raise ValueError(f"Numbers of rows must rise, got {sizes}.")
        slopes = (self.seconds_per_key, self.seconds_per_product, self.seconds_per_sequence)
        if min(self.rows + self.buckets) < 1 or min(self.seconds) <= 0 or min(slopes) < 0:
            raise ValueError(f"Rows and times must be positive, got {self.rows}, {self.seconds}.")

    def __call__(self, rows: int, keys: int, sequences: int = 1) -> float:
        rows = self._padded(rows)
        measured, usual = self._at(rows), self.keys_at_measurement
        more = self.seconds_per_key * (keys - usual)
        more += self.seconds_per_product * rows * (keys / sequences - usual)
        more += self.seconds_per_sequence * (sequences - 1)
        return max(measured + more, 0.1 * measured)

    def _padded(self, rows: int) -> int:
        index = bisect_left(self.buckets, rows)
        return self.buckets[index] if index < len(self.buckets) else rows

    def _at(self, rows: int) -> float:
        if rows <= self.rows[0]:
            return self.seconds[0]
        if rows > self.rows[-1]:
            return self.seconds[-1] + self._last_slope() * (rows - self.rows[-1])
        index = bisect_left(self.rows, rows)
        low, high = self.rows[index - 1], self.rows[index]
        share = (rows - low) / (high - low)
        return self.seconds[index - 1] * (1 - share) + self.seconds[index] * share

    def _last_slope(self) -> float:
        if len(self.rows) == 1:
            return self.seconds[0] / self.rows[0]
        rise = self.seconds[-1] - self.seconds[-2]
        return max(0.0, rise / (self.rows[-1] - self.rows[-2]))


@dataclass(frozen=True, slots=True)
class CostTable:
    """A measured target curve and a measured drafter curve; None for a drafter without passes,
    whose levels cost nothing here."""

    verify: CostCurve
    draft: CostCurve | None = None

    def verify_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        return self.verify(rows, keys, sequences)

    def draft_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        return self.draft(rows, keys, sequences) if self.draft is not None else 0.0


@dataclass(frozen=True, slots=True)
class RooflineCost:
    """A guess from data sheets, for devices that nobody has measured: whichever takes longer,
    moving the weights and keys or multiplying by them (Williams et al. 2009).

    `bytes_per_second` and `flops_per_second` of the device; `weight_bytes`, `key_bytes` of a token
    in the cache, and `draft_share`, the drafter's weights over the target's. How many sequences
    share a pass makes no difference here.
    """

    bytes_per_second: float
    flops_per_second: float
    weight_bytes: float
    bytes_per_weight: float
    key_bytes: float
    draft_share: float
    overhead_seconds: float = 0.0

    def verify_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:  # noqa: ARG002
        return self._seconds(rows, keys, 1.0)

    def draft_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:  # noqa: ARG002
        return self._seconds(rows, keys, self.draft_share)

    def _seconds(self, rows: int, keys: int, share: float) -> float:
        moved = (self.weight_bytes + keys * self.key_bytes) * share
        multiplied = 2 * rows * self.weight_bytes / self.bytes_per_weight * share
        return self.overhead_seconds + max(
            moved / self.bytes_per_second, multiplied / self.flops_per_second
        )
