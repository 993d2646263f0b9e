"""Corrections: what is off is learnt, what was off is unlearnt, what is odd is not believed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cast_profiler.cost import CostCurve, CostTable
from cast_profiler.drift import CorrectedCost

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
    for _ in range(1500):
        sequences, rows = (int(generator.integers(1, most)) for most in (17, 33))
        noise = generator.lognormal(0, 0.05, 2)
        cost.saw_level(rows, 100, 1, 1.6 * BASE.draft_seconds(rows, 100) * float(noise[0]))
        cost.saw_host(sequences, (0.001 + 0.0005 * sequences) * float(noise[1]))
    for sequences in (1, 4, 10):
        expected = 0.001 + 0.0005 * sequences
        assert cost.host_seconds(sequences) == pytest.approx(expected, rel=0.1)
    for rows in (1, 8, 30):
        ratio = cost.draft_seconds(rows, 100) / BASE.draft_seconds(rows, 100)
        assert ratio == pytest.approx(1.6, rel=0.1)


def test_large_batches_teach_nothing_about_small_ones_that_small_ones_unlearn_slowly() -> None:
    cost = CorrectedCost(BASE)
    for sequences, truth in ((32, 0.030), (1, 0.0008)):
        for _ in range(60):
            cost.saw_host(sequences, truth)
        assert cost.host_seconds(sequences) == pytest.approx(truth, rel=0.1)


def test_nobody_drafts_for_nothing_and_levels_may_cost_nothing() -> None:
    cost = CorrectedCost(CostTable(BASE.verify))
    cost.saw_level(4, 100, 1, 0.001)
    assert cost.host_seconds(0) == cost.draft_seconds(4, 100) == 0.0
