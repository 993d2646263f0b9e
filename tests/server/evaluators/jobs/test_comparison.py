from __future__ import annotations

import pytest
from pydantic import BaseModel

from cast_server.evaluators.jobs.comparison import compare
from cast_server.evaluators.measures.intervals import bootstrap_interval, wilson_interval


class Item(BaseModel):
    score: float | None


def items(*scores: float | None) -> dict[int, BaseModel]:
    return {i: Item(score=score) for i, score in enumerate(scores)}


def test_differences_are_of_pairs() -> None:
    # both vary by hundreds, their differences by nothing
    ours = items(*(100.0 * i + 1 for i in range(20)))
    theirs = items(*(100.0 * i for i in range(20)))
    found = compare(["score"], ours, theirs)["score"]
    assert (found.pairs, found.left_out, found.difference) == (20, 0, 1.0)
    assert found.interval == (1.0, 1.0)
    assert (found.mean, found.baseline_mean) == (951.0, 950.0)


def test_items_without_a_pair_are_left_out_and_counted() -> None:
    found = compare(["score"], items(3.0, None, 5.0, 7.0), items(1.0, 1.0, None))["score"]
    assert (found.pairs, found.left_out, found.difference) == (1, 3, 2.0)
    assert (found.interval, found.reason) == (None, "fewer_than_2_pairs")


def test_without_pairs_there_is_no_difference() -> None:
    found = compare(["score"], items(None), items(1.0))["score"]
    assert (found.pairs, found.difference, found.mean, found.reason) == (0, None, None, "no_pairs")


def test_the_interval_is_the_bootstraps_of_the_differences() -> None:
    found = compare(["score"], items(1.0, 5.0, 2.0, 8.0), items(0.0, 1.0, 4.0, 2.0))["score"]
    assert found.interval == bootstrap_interval([1.0, 4.0, -2.0, 6.0])
    assert found.interval[0] < found.difference < found.interval[1]


def test_bootstrap_is_seeded_and_narrows_with_the_sample() -> None:
    few, many = [0.0, 1.0, 0.3, 0.7] * 4, [0.0, 1.0] * 200
    assert bootstrap_interval(few, seed=3) == bootstrap_interval(few, seed=3)
    assert bootstrap_interval(few, seed=3) != bootstrap_interval(few, seed=4)
    (low, high), (lower, higher) = bootstrap_interval(many), bootstrap_interval(few)
    assert lower < low < 0.5 < high < higher
    # the standard error of a mean of 400 coins is 0.025
    assert high - low == pytest.approx(2 * 1.96 * 0.025, rel=0.15)


@pytest.mark.parametrize(
    ("successes", "expected"), [(0, (0, 0.037)), (24, (0.167, 0.332)), (92, (0.850, 0.959))]
)
def test_wilson_intervals_are_the_known_ones(successes, expected) -> None:
    assert wilson_interval(successes, 100) == pytest.approx(expected, abs=6e-4)
