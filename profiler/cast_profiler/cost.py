"""What a step costs: the protocol, a measured table, and a roofline where nothing was measured.

Seconds are wall-clock seconds of one pass. Rows are tokens computed in it, of all sequences; keys
are the tokens of context that its sequences attend to, added up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class CostModel(Protocol):
    """Predicts passes of the target (verification) and of the drafter (one level)."""

    def verify_seconds(self, rows: int, keys: int) -> float: ...

    def draft_seconds(self, rows: int, keys: int) -> float: ...


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds by number of rows, measured, plus a price for each key of context.

    Straight lines between measured points: the curve may fall, as measured ones do where a product
    switches to another algorithm. Beyond the last point the last slope goes on, never falling.

    Raises `ValueError` if the points are not at rising numbers of rows or not positive.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    seconds_per_key: float = 0.0
    keys_at_measurement: int = 0

    def __post_init__(self) -> None:
        if not self.rows or len(self.rows) != len(self.seconds):
            raise ValueError(f"Need as many times as rows, got {self.seconds} for {self.rows}.")
        if any(a >= b for a, b in zip(self.rows, self.rows[1:], strict=False)):
            raise ValueError(f"Numbers of rows must rise, got {self.rows}.")
        if min(self.rows) < 1 or min(self.seconds) <= 0 or self.seconds_per_key < 0:
            raise ValueError(f"Rows and times must be positive, got {self.rows}, {self.seconds}.")

    def __call__(self, rows: int, keys: int) -> float:
        context = self.seconds_per_key * (keys - self.keys_at_measurement)
        return max(self._at(rows) + context, 0.1 * self._at(rows))

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
    """A measured target curve and a measured drafter curve."""

    verify: CostCurve
    draft: CostCurve

    def verify_seconds(self, rows: int, keys: int) -> float:
        return self.verify(rows, keys)

    def draft_seconds(self, rows: int, keys: int) -> float:
        return self.draft(rows, keys)


@dataclass(frozen=True, slots=True)
class RooflineCost:
    """A guess from data sheets, for devices that nobody has measured: whichever takes longer,
    moving the weights and keys or multiplying by them (Williams et al. 2009).

    `bytes_per_second` and `flops_per_second` of the device; `weight_bytes`, `key_bytes` of a token
    in the cache, and `draft_share`, the drafter's weights over the target's.
    """

    bytes_per_second: float
    flops_per_second: float
    weight_bytes: float
    bytes_per_weight: float
    key_bytes: float
    draft_share: float
    overhead_seconds: float = 0.0

    def verify_seconds(self, rows: int, keys: int) -> float:
        return self._seconds(rows, keys, 1.0)

    def draft_seconds(self, rows: int, keys: int) -> float:
        return self._seconds(rows, keys, self.draft_share)

    def _seconds(self, rows: int, keys: int, share: float) -> float:
        moved = (self.weight_bytes + keys * self.key_bytes) * share
        multiplied = 2 * rows * self.weight_bytes / self.bytes_per_weight * share
        return self.overhead_seconds + max(
            moved / self.bytes_per_second, multiplied / self.flops_per_second
        )


def cheapest_from(seconds: Sequence[float]) -> list[float]:
    """For each size the least cost of it or any larger one: rows may be added for nothing."""
    cheapest = list(seconds)
    for index in range(len(cheapest) - 2, -1, -1):
        cheapest[index] = min(cheapest[index], cheapest[index + 1])
    return cheapest
