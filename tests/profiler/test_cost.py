from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cast_profiler.cost import CostCurve, CostTable, RooflineCost

POINTS = st.dictionaries(st.integers(1, 200), st.floats(1e-4, 1.0), min_size=1, max_size=8)


@given(POINTS)
def test_measured_points_are_kept(points) -> None:
    rows = tuple(sorted(points))
    curve = CostCurve(rows, tuple(points[row] for row in rows))
    for row in rows:
        assert curve(row, 0) == pytest.approx(points[row])


@given(POINTS, st.integers(1, 400))
def test_between_its_neighbours_and_never_falling_beyond(points, row) -> None:
    rows = tuple(sorted(points))
    curve = CostCurve(rows, tuple(points[r] for r in rows))
    inside = [points[r] for r in rows]
    if row <= rows[-1]:
        assert min(inside) - 1e-9 <= curve(row, 0) <= max(inside) + 1e-9
    else:
        assert curve(row, 0) >= points[rows[-1]]


def test_an_inversion_is_kept() -> None:
    curve = CostCurve((8, 16, 24), (0.03, 0.05, 0.04))
    assert curve(16, 0) > curve(24, 0)


def test_context_has_its_price() -> None:
    curve = CostCurve((1, 8), (0.02, 0.03), seconds_per_key=1e-6, keys_at_measurement=100)
    assert curve(8, 1100) == pytest.approx(0.031)
    assert curve(8, 100) == 0.03
    table = CostTable(curve, CostCurve((1,), (0.002,)))
    assert table.verify_seconds(8, 100) == 0.03
    assert table.draft_seconds(2, 0) == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("rows", "seconds"), [((), ()), ((1, 1), (1.0, 1.0)), ((2, 1), (1.0, 1.0)), ((1,), (0.0,))]
)
def test_nonsense_is_refused(rows, seconds) -> None:
    with pytest.raises(ValueError, match="got"):
        CostCurve(rows, seconds)


def test_roofline_is_flat_then_rises() -> None:
    cost = RooflineCost(1e12, 1e15, 16e9, 2.0, 1e5, 0.05)
    assert cost.verify_seconds(1, 0) == pytest.approx(0.016)
    assert cost.verify_seconds(900, 0) == pytest.approx(0.016)
    assert cost.verify_seconds(4000, 0) == pytest.approx(0.064)
    assert cost.draft_seconds(1, 0) == pytest.approx(0.0008)
    assert cost.verify_seconds(1, 10**6) > cost.verify_seconds(1, 0)
