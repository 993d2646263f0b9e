"""Measured passes of one model, and the curve that predicts others from them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

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
        """The points of one sequence at the shortest context as they are; for the rest three slopes
        of least squared relative error, none below 0.
        """
        alone = [point for point in self.points if point.sequences == 1]
        if not alone:
            raise ValueError("A cost surface needs points with one sequence.")
        keys = min(point.keys for point in alone)
        base = sorted((p for p in alone if p.keys == keys), key=lambda p: p.rows)
        rows, seconds = tuple(p.rows for p in base), tuple(p.seconds for p in base)
        curve = CostCurve(rows, seconds, keys_at_measurement=keys, buckets=self.buckets)
        per_key, per_product, per_sequence = _slopes(self.points, curve)
        return replace(
            curve,
            seconds_per_key=per_key,
            seconds_per_product=per_product,
            seconds_per_sequence=per_sequence,
        )

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
    """What the point tells: the curve itself, or one of the slopes."""
    if point.sequences > 1:
        return "sequences"
    return "rows" if point.keys == curve.keys_at_measurement else "context"


def _rounded(seconds: float) -> float:
    """To what timings are good for, so that the file can be read."""
    return float(f"{seconds:.4g}")


def _slopes(points: Sequence[Measurement], curve: CostCurve) -> list[float]:
    """Seconds per key, per product and per sequence; what would be negative is left out."""
    usual = curve.keys_at_measurement
    seconds_P = np.array([point.seconds for point in points])
    design_P3 = np.array(
        [(p.keys - usual, p.rows * (p.keys / p.sequences - usual), p.sequences - 1) for p in points]
    )
    design_P3 = design_P3 / seconds_P[:, None]
    rest_P = 1 - np.array([curve(point.rows, usual) for point in points]) / seconds_P
    slopes = np.zeros(3)
    free = [0, 1, 2]
    while free:
        found = np.linalg.lstsq(design_P3[:, free], rest_P, rcond=None)[0]
        if found.min() >= 0:
            slopes[free] = found
            break
        del free[int(found.argmin())]
    return [float(slope) for slope in slopes]
