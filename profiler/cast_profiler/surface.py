"""Measured passes of one model, and the curve that predicts others from them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cast_profiler.cost import CostCurve
from cast_profiler.grid import GridPoint
from cast_profiler.samples import Summary


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds of a pass over `rows` rows of `sequences` sequences with `keys` tokens of context in
    all: the median of `samples` runs, their interquartile range, and how many more were rejected.
    """

    rows: int
    sequences: int
    keys: int
    seconds: float
    spread: float
    samples: int
    rejected: int

    @classmethod
    def of(cls, point: GridPoint, summary: Summary) -> Measurement:
        return cls(
            point.rows,
            point.sequences,
            point.keys,
            _rounded(summary.seconds),
            _rounded(summary.spread),
            summary.kept,
            summary.rejected,
        )


@dataclass(frozen=True, slots=True)
class FitError:
    """|predicted / measured - 1|, each point predicted from all others; and where it is worst."""

    median: float
    worst: float
    worst_rows: int
    worst_keys: int


@dataclass(frozen=True, slots=True)
class Surface:
    """At least one measurement with one sequence. Raises `ValueError` without, or for nonsense.

    `buckets` are the numbers of rows that passes are padded to, if they are.
    """

    points: tuple[Measurement, ...]
    buckets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.curve()

    def curve(self) -> CostCurve:
        """The points of one sequence at the shortest context as they are, two slopes for the rest.

        The slopes are those of least squared error, never below 0: seconds per key from the other
        contexts of one sequence, then seconds per sequence from all that have several.
        """
        alone = [point for point in self.points if point.sequences == 1]
        if not alone:
            raise ValueError("A cost surface needs points with one sequence.")
        keys = min(point.keys for point in alone)
        base = sorted((p for p in alone if p.keys == keys), key=lambda p: p.rows)
        rows, seconds = tuple(p.rows for p in base), tuple(p.seconds for p in base)
        curve = CostCurve(rows, seconds, keys_at_measurement=keys, buckets=self.buckets)
        per_key = _slope([(p.keys - keys, p.seconds - curve(p.rows, keys)) for p in alone])
        curve = CostCurve(rows, seconds, per_key, keys, 0.0, self.buckets)
        per_sequence = _slope(
            [(p.sequences - 1, p.seconds - curve(p.rows, p.keys)) for p in self.points]
        )
        return CostCurve(rows, seconds, per_key, keys, per_sequence, self.buckets)

    def fit_error(self) -> FitError | None:
        """None if there are too few points to predict one from the others."""
        errors = [
            (abs(rest.curve()(point.rows, point.keys, point.sequences) / point.seconds - 1), point)
            for point, rest in self._left_out()
        ]
        if not errors:
            return None
        worst, at = max(errors, key=lambda error: error[0])
        return FitError(statistics.median(e for e, _ in errors), worst, at.rows, at.keys)

    def _left_out(self) -> Iterator[tuple[Measurement, Surface]]:
        """Each point that lies between others, or has others of its kind, and those others."""
        curve = self.curve()
        for point in self.points:
            others = tuple(other for other in self.points if other is not point)
            kind = _kind(point, curve)
            is_end = kind == "rows" and point.rows in (curve.rows[0], curve.rows[-1])
            if not is_end and any(_kind(other, curve) == kind for other in others):
                yield point, Surface(others, self.buckets)


def _kind(point: Measurement, curve: CostCurve) -> str:
    """What the point tells: the curve itself, or one of the two slopes."""
    if point.sequences > 1:
        return "sequences"
    return "rows" if point.keys == curve.keys_at_measurement else "context"


def _rounded(seconds: float) -> float:
    """To what timings are good for, so that the file can be read."""
    return float(f"{seconds:.4g}")


def _slope(pairs: Sequence[tuple[float, float]]) -> float:
    """Of the line through zero with the least squared error, at least 0."""
    square = sum(x * x for x, _ in pairs)
    return max(0.0, sum(x * y for x, y in pairs) / square) if square else 0.0
