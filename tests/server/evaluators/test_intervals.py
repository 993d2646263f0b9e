"""Intervals: published values, closed forms, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.measures.intervals import (
    bootstrap_interval,
    mean,
    paired_difference,
    standard_deviation,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "low", "high"),
    [
        (0, 0, 0.037),
        (3, 0.010, 0.085),
        (24, 0.167, 0.332),
        (39, 0.300, 0.488),
        (46, 0.366, 0.557),
        (88, 0.802, 0.930),
        (92, 0.850, 0.959),
    ],
)
def test_wilson_of_a_hundred(successes, low, high) -> None:
    found = wilson_interval(successes, 100)
    assert tuple(round(end, 3) for end in found) == (low, high)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_what_scipy_says(counts) -> None:
    low, high = wilson_interval(*counts)
    expected = stats.binomtest(*counts).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1
    assert wilson_interval(*counts, confidence=0.5)[1] <= high


def test_mean_of_samples() -> None:
    found = mean([1.0, 2.0, 6.0])
    assert (found.count, found.value) == (3, 3.0)
    assert found.sd == pytest.approx(7**0.5)
    assert 1 <= found.interval.low < 3 < found.interval.high <= 6
    assert found == mean([1.0, 2.0, 6.0])


def test_less_confidence_is_a_narrower_interval() -> None:
    values = np.random.default_rng(1).normal(size=30).tolist()
    wide, narrow = bootstrap_interval(values), bootstrap_interval(values, confidence=0.5)
    assert wide[0] < narrow[0] < sum(values) / 30 < narrow[1] < wide[1]
    assert wide == (mean(values).interval.low, mean(values).interval.high)
    assert wide != bootstrap_interval(values, seed=1)


def test_one_sample_has_no_spread() -> None:
    assert mean([2.5]) == mean([2.5])
    assert (mean([2.5]).sd, mean([2.5]).interval) == (None, None)
    with pytest.raises(Undefined, match="fewer_than_2_samples"):
        standard_deviation([1.0])


@pytest.mark.parametrize("nothing", [lambda: mean([]), lambda: wilson_interval(0, 0)])
def test_no_samples(nothing) -> None:
    with pytest.raises(Undefined, match="no_samples"):
        nothing()


def test_pairs_of_which_one_is_missing_are_left_out() -> None:
    found = paired_difference([1.0, None, 3.0, 4.0], [2.0, 9.0, None, 7.0])
    assert (found.count, found.value) == (2, 2.0)
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0])


def test_pairing_takes_out_what_both_have_in_common() -> None:
    ones = np.random.default_rng(3).normal(0, 100, 40)
    found = paired_difference(ones.tolist(), (ones + 1).tolist())
    assert (found.interval.low, found.interval.high) == pytest.approx((1, 1))


def test_bootstrap_holds_the_truth_nearly_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    held = 0
    for trial in range(200):
        interval = mean(generator.normal(5, 2, 40).tolist(), seed=trial).interval
        held += interval.low <= 5 <= interval.high
    assert 0.88 <= held / 200 <= 0.99


def test_spread_over_three_values_is_a_samples() -> None:
    """The table of arXiv 2401.17139 that gives 1.782 for these took the population's."""
    values = [136.20, 132.39, 136.14]
    assert standard_deviation(values) == pytest.approx(2.183, abs=5e-4)
    assert float(np.std(values)) == pytest.approx(1.782, abs=1e-3)
