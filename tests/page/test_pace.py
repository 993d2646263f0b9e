from __future__ import annotations

import pytest

from cast_server.engine import pace
from cast_server.engine.pace import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_tokens_of_the_last_ten_seconds_count_and_idle_time_does_too() -> None:
    clock = Clock()
    one = Pace(clock)
    assert one.tokens_per_second == 0.0
    one.add(30)
    clock.now += 5
    one.add(20)
    assert one.tokens_per_second == pytest.approx(5.0)
    clock.now += 6
    assert one.tokens_per_second == pytest.approx(2.0)
    clock.now += 60
    assert one.tokens_per_second == 0.0


def test_more_steps_than_are_remembered_give_no_smaller_pace(monkeypatch) -> None:
    monkeypatch.setattr(pace, "_MOST", 10)
    clock = Clock()
    one = Pace(clock)
    for _ in range(100):
        clock.now += 0.01
        one.add(1)
    assert one.tokens_per_second == pytest.approx(100, rel=0.2)
