"""Corrections: what is off is learnt, what was off is unlearnt, what is odd is not believed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cast_profiler.cost import CostCurve, CostTable
from cast_profiler.drift import CorrectedCost
from cast_profiler.regression import OnlineRegression

BASE = CostTable(CostCurve((1, 64), (0.02, 0.1)), CostCurve((1, 64), (0.002, 0.008)))


def passes(cost, factor, count=60, rows=(1, 4, 8, 16, 32)) -> None:
    for i in range(count):
        one = rows[i % len(rows)]
        cost.saw_verify(one, 100, 1, factor * BASE.verify_seconds(one, 100))


def test_a_machine_that_has_become_slower_and_fast_again() -> None:
    cost = CorrectedCost(BASE)
    for factor in (2.0, 1.0):
        passes(cost, factor)
        for rows in (1, 6, 40):
            expected = factor * BASE.verify_seconds(rows, 100)
            assert cost.verify_seconds(rows, 100) == pytest.approx(expected, rel=0.12)


def test_one_range_that_is_off() -> None:
    cost = CorrectedCost(BASE)
    for _ in range(400):
        passes(cost, 1.0, 5)
        cost.saw_verify(12, 100, 1, 1.5 * BASE.verify_seconds(12, 100))
    assert cost.verify_seconds(12, 100) / BASE.verify_seconds(12, 100) > 1.3
    assert cost.verify_seconds(1, 100) == pytest.approx(BASE.verify_seconds(1, 100), rel=0.1)


def test_an_interrupted_pass_counts_for_little() -> None:
    cost = CorrectedCost(BASE)
    cost.saw_verify(4, 100, 1, 100 * BASE.verify_seconds(4, 100))
    assert cost.verify_seconds(4, 100) < 1.1 * BASE.verify_seconds(4, 100)
    assert cost.drift == pytest.approx(math.exp(0.05), rel=0.01)


def test_drafting_is_told_apart() -> None:
    cost = CorrectedCost(BASE)
    generator = np.random.default_rng(0)
    for _ in range(3000):
        sequences, base = int(generator.integers(1, 17)), float(generator.uniform(0, 0.012))
        seconds = 0.0005 * sequences + 1.6 * base + float(generator.normal(0, 0.0003))
        cost.saw_drafts(sequences, base, seconds)
    assert cost.host_seconds(10) == pytest.approx(0.005, rel=0.1)
    ratio = cost.draft_seconds(8, 100) / BASE.draft_seconds(8, 100)
    assert ratio == pytest.approx(1.6, rel=0.1)


def test_passes_never_become_free() -> None:
    cost = CorrectedCost(BASE)
    for _ in range(2000):
        cost.saw_drafts(4, 0.004, 0.0005)
    assert cost.draft_seconds(8, 100) >= 0.69 * BASE.draft_seconds(8, 100)


def test_regression_forgets_and_stays_finite() -> None:
    model = OnlineRegression(start=(0.0, 0.0), scale=(1.0, 1.0), memory=100)
    generator = np.random.default_rng(0)
    for truth in ((1.0, 2.0), (3.0, 0.5)):
        for _ in range(600):
            x = generator.uniform(0, 3, 2)
            model.learn(x.tolist(), float(np.dot(truth, x)))
        assert model.coefficients == pytest.approx(truth, abs=0.1)
    for _ in range(10_000):
        model.learn((1.0, 1.0), 2.0)
    assert model.predict((1.0, 1.0)) == pytest.approx(2.0, abs=0.02)
    assert np.isfinite(model.coefficients).all()


def test_less_than_nothing_is_nothing() -> None:
    model = OnlineRegression(start=(0.0,), scale=(1.0,))
    model.learn((1.0,), -5.0)
    assert model.predict((1.0,)) == 0.0
