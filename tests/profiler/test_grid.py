from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cast_profiler.grid import GridPoint, make_grid, most_important_first


def everything(_: GridPoint) -> bool:
    return True


def test_rows_around_tile_sizes_and_the_largest_are_there() -> None:
    rows = [p.rows for p in make_grid(64, [256], everything)]
    assert rows == [1, 2, 3, 4, 6, 8, 9, 12, 16, 17, 24, 32, 33, 48, 64]
    assert [p.rows for p in make_grid(20, [256], everything)][-2:] == [17, 20]


def test_contexts_and_sequences_are_varied_too() -> None:
    grid = make_grid(64, [256, 1024], everything, max_sequences=8)
    assert {p.context for p in grid if p.rows == 64} == {256, 1024}
    assert {p.sequences for p in grid} == {1, 2, 4, 8}
    assert len(make_grid(64, [256, 1024], everything, max_sequences=8, quick=True)) < len(grid) / 2


@given(st.integers(1, 200), st.integers(1, 40))
def test_no_point_twice_none_that_does_not_fit_no_sequence_without_rows(max_rows, most) -> None:
    grid = make_grid(max_rows, [16, 64], lambda p: p.keys <= 512, max_sequences=most)
    assert len(set(grid)) == len(grid)
    assert all(p.keys <= 512 and p.rows <= max_rows for p in grid)
    assert all(min(p.rows_by_sequence) >= 1 and sum(p.rows_by_sequence) == p.rows for p in grid)


def test_the_ends_of_the_curve_come_first() -> None:
    grid = make_grid(64, [256, 1024], everything, max_sequences=8)
    ordered = most_important_first(grid)
    assert [p.rows for p in ordered[:3]] == [1, 64, 12]
    assert sorted(ordered, key=str) == sorted(grid, key=str)
    assert all(p.context == 256 and p.sequences == 1 for p in ordered[:15])


def test_padded_passes_are_measured_at_what_they_are_padded_to() -> None:
    options = {"buckets": (2, 6, 24, 48), "max_sequences": 4}
    for max_rows, rows in ((48, [2, 6, 24, 48]), (20, [2, 6, 24]), (60, [2, 6, 24, 48, 60])):
        grid = make_grid(max_rows, [256, 1024], everything, **options)
        assert [p.rows for p in grid if p.sequences == 1 and p.context == 256] == rows
    quick = make_grid(48, [256, 1024], everything, quick=True, **options)
    assert [p.rows for p in quick if p.context == 1024] == [24]
