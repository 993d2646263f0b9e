"""Rates and their intervals, against published numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cast_server.evaluators.measures.intervals import wilson_interval
from cast_server.evaluators.self_knowledge.summary import gap, rate


@given(st.integers(1, 400), st.data(), st.sampled_from((0.8, 0.95, 0.99)))
def test_wilson_is_where_the_score_test_turns(
    total: int, data: st.DataObject, confidence: float
) -> None:
    """Its ends are the shares p with |successes / total - p| = z sqrt(p (1 - p) / total)."""
    successes = data.draw(st.integers(0, total))
    low, high = wilson_interval(successes, total, confidence)
    z = {0.8: 1.2815515655, 0.95: 1.9599639845, 0.99: 2.5758293035}[confidence]
    share = successes / total
    assert 0 <= low <= share <= high <= 1
    for end, is_end in ((low, successes > 0), (high, successes < total)):
        if is_end:
            assert abs(share - end) == pytest.approx(z * (end * (1 - end) / total) ** 0.5, rel=1e-6)
        else:
            assert end == share


def test_a_rate_leaves_out_what_cannot_be_told() -> None:
    found = rate([1, None, 0, None, 1, 1])
    assert (found.value, found.successes, found.total) == (0.75, 3, 4)
    nothing = rate([None, None])
    assert (nothing.value, nothing.low, nothing.high, nothing.total) == (None, None, None, 0)


def test_newcombes_own_example() -> None:
    found = gap(rate([1] * 56 + [0] * 14), rate([1] * 48 + [0] * 32))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert gap(rate([]), rate([1])).value is None
