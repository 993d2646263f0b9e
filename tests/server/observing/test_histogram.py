"""A histogram counts each value once, where Prometheus looks for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Theirs

from cast_server.engine.histogram import Histogram
from cast_server.engine.ledger import ERRORS, NODES, ROWS, SECONDS, SHORT, TOKENS
from cast_server.observing.families import histogram

BOUNDS = (SECONDS, SHORT, TOKENS, ROWS, NODES, ERRORS)


@given(st.sampled_from(BOUNDS), st.data())
def test_it_counts_as_prometheus_own(bounds, data) -> None:
    number = st.floats(0, 2 * bounds[-1]) | st.sampled_from(bounds)
    values = data.draw(st.lists(st.tuples(number, st.integers(1, 3)), max_size=20))
    ours, registry = Histogram(bounds), CollectorRegistry()
    theirs = Theirs("seconds", "as theirs", registry=registry, buckets=bounds)
    for one, times in values:
        ours.add(one, times)
        for _ in range(times):
            theirs.observe(one)
    (expected,) = theirs.collect()
    found = histogram("seconds", "as theirs", [({}, ours)], ())
    for one in found.samples:
        (same,) = (
            other
            for other in expected.samples
            if (other.name, other.labels) == (one.name, one.labels)
        )
        assert one.value == pytest.approx(same.value)
    assert ours.count == sum(times for _, times in values)


def test_a_copy_stays_as_it_was() -> None:
    one = Histogram((1.0, 2.0))
    one.add(1.0)
    copy = one.copy()
    one.add(5.0)
    assert (copy.counts, copy.total) == ([1, 0, 0], 1.0)
    assert (one.counts, one.total) == ([1, 0, 1], 6.0)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_bounds_rise(bounds) -> None:
    assert list(bounds) == sorted(set(bounds))
