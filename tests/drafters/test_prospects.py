"""What a pass may be hoped to add: more than nothing at first, then what passes have added."""

from __future__ import annotations

import pytest

from cast_drafters.builders.prospects import Prospects


def gain(prospects, level=0, prob=1.0, before=(0.0,), threshold=0.1) -> float:
    [found] = prospects.gains(level, [prob], [before], threshold)
    return float(found)


def taught(before, after, level=0, count=40) -> Prospects:
    prospects = Prospects()
    for _ in range(count):
        prospects.learn(level, before, after)
    return prospects


def test_there_is_hope_where_nothing_is_known() -> None:
    assert gain(Prospects()) > 0.2
    assert gain(Prospects(), before=(0.9,)) < gain(Prospects())


def test_it_is_what_children_are_worth_beyond_a_row() -> None:
    prospects = taught([0.2], [0.7, 0.15, 0.05])
    assert gain(prospects, before=[0.2]) == pytest.approx(0.6 + 0.05 - 0.1)
    assert gain(prospects, before=[0.2], prob=0.5) == pytest.approx(0.25 - 0.0)
    assert gain(prospects, before=[0.2], threshold=0.7) == 0.0


def test_passes_that_find_nothing_new_are_worth_nothing() -> None:
    prospects = taught([0.8, 0.1], [0.8, 0.1])
    assert gain(prospects, before=[0.8, 0.1]) == 0.0


def test_levels_and_sorts_are_told_apart() -> None:
    fresh, prospects = Prospects(), taught([0.0], [0.0])
    assert gain(prospects) == 0.0
    assert gain(prospects, level=1) == gain(fresh, level=1) > 0
    assert gain(prospects, before=[0.6]) == gain(fresh, before=[0.6]) > 0


def test_old_passes_are_forgotten() -> None:
    prospects = taught([0.0], [0.0])
    for _ in range(32):
        prospects.learn(0, [0.0], [0.9])
    assert gain(prospects) == pytest.approx(0.8)
