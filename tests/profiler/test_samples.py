from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cast_profiler.samples import Sample, quiet_level, summarise

TIMES = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=40)


def noisy(count: int, seed: int) -> list[float]:
    chosen = random.Random(seed)
    return [0.030 * (1 + 0.02 * chosen.random()) for _ in range(count)]


def test_planted_spikes_are_rejected() -> None:
    samples = [Sample(seconds, 0.025) for seconds in [*noisy(20, 0), 0.060, 0.300]]
    summary = summarise(samples, 0.025)
    assert 0.030 <= summary.seconds <= 0.0306
    assert (summary.kept, summary.rejected) == (20, 2)
    assert summary.spread < 0.001


def test_samples_beside_a_slow_reference_are_rejected_even_if_they_are_many() -> None:
    throttled = [Sample(2 * seconds, 0.050) for seconds in noisy(24, 1)]
    calm = [Sample(seconds, 0.025) for seconds in noisy(12, 2)]
    quiet = quiet_level([sample.reference for sample in throttled + calm])
    assert quiet == 0.025
    summary = summarise(throttled + calm, quiet)
    assert summary.seconds < 0.031
    assert summary.rejected == 24


def test_a_third_stays_on_a_machine_that_is_never_quiet() -> None:
    samples = [Sample(0.030, 0.05 + 0.001 * index) for index in range(9)]
    assert summarise(samples, 0.025).kept == 3


@given(TIMES, TIMES)
def test_any_samples_give_a_time_among_them(seconds, references) -> None:
    samples = [Sample(s, references[i % len(references)]) for i, s in enumerate(seconds)]
    summary = summarise(samples, quiet_level(references))
    assert min(seconds) <= summary.seconds <= max(seconds)
    assert summary.kept >= 1
    assert summary.kept + summary.rejected == len(samples)


def test_equal_samples_are_no_spikes() -> None:
    summary = summarise([Sample(0.03, 0.02)] * 5 + [Sample(0.0301, 0.02)], 0.02)
    assert summary.kept == 6
    assert summary.seconds == pytest.approx(0.03)
