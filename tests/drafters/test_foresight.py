"""The shape of a step, settled before anything of it is known."""

from __future__ import annotations

import math

import pytest
from builders_at_work import costs, frontier, seats
from hypothesis import given
from hypothesis import strategies as st

from cast_drafters.policy import POLICIES, make_builder

FORESEEING = [kind for kind in POLICIES if make_builder(kind).foresees]


def roots_of(builder, seated, step, free=((),)):
    limits = builder.limits(seated, step)
    return [
        frontier(one, name=seat.request_id, free=[list(free[0])])
        for one, seat in zip(limits, seated, strict=True)
        if one.max_nodes
    ]


def test_who_foresees() -> None:
    assert FORESEEING == ["chain", "tree", "eagle2", "cast"]


@pytest.mark.parametrize(
    ("kind", "size", "levels", "rows"),
    [
        ("chain", 4, 0, (2, 2, 2)),
        ("chain", 1, 0, ()),
        ("tree", 3, 0, ()),
        ("tree", 12, 0, (8, 8)),
        ("tree", 3, 3, (6, 8)),
        ("eagle2", 59, 0, (20, 20, 20, 20, 20)),
    ],
)
def test_fixed_policies_know(kind, size, levels, rows) -> None:
    builder, step = make_builder(kind), costs(max_nodes=200, num_sequences=2)
    shape = builder.plan(roots_of(builder, seats(2, size, levels), step), step)
    assert shape.roots == (True, True)
    assert shape.levels == rows
    assert shape.num_nodes == 2 * size


def shape_of(step, free=((),), lessons=(), size=16):
    """What `cast` makes of two sequences, after passes at each level that found `lessons`."""
    builder = make_builder("cast")
    for level, children in enumerate(lessons):
        for _ in range(40):
            builder.ran(level, [frontier()], [[children]])
    return builder.plan(roots_of(builder, seats(2, size), step, free), step)


GOOD = [0.9, 0.05]


def test_cast_goes_as_deep_as_passes_have_paid() -> None:
    dear, cheap = (costs(slope=0.01, draft=draft, num_sequences=2) for draft in (0.5, 0.02))
    deep = shape_of(cheap, lessons=[GOOD] * 4)
    assert deep.roots == (True, True)
    assert len(deep.levels) > 3
    assert deep.num_nodes > 8
    shallow = shape_of(cheap, lessons=[GOOD, [0.1], [0.1], [0.1]])
    assert len(shallow.levels) < len(deep.levels)
    assert shallow.num_nodes < deep.num_nodes
    assert len(shape_of(dear, lessons=[GOOD] * 4).levels) < len(deep.levels)


def test_cast_verifies_what_the_text_repeats_without_a_pass() -> None:
    step = costs(slope=0.01, draft=5.0, num_sequences=2)
    shape = shape_of(step, free=([0.95],))
    assert shape.roots == (False, False)
    assert shape.levels == ()
    assert shape.num_nodes > 8
    assert shape_of(step, free=([0.02],)).num_nodes < 4


@given(
    st.integers(1, 64),
    st.floats(0.001, 0.5),
    st.floats(0.0, 0.5),
    st.lists(st.floats(0.0, 0.99), min_size=1, max_size=4),
    st.integers(1, 40),
)
def test_no_more_than_there_is_room_for(max_nodes, slope, draft, children, size) -> None:
    step = costs(max_nodes, slope, draft, num_sequences=2)
    falling = [p / len(children) for p in sorted(children, reverse=True)]
    builder = make_builder("cast")
    asked = roots_of(builder, seats(2, size), step, (falling,))
    shape = builder.plan(asked, step)
    assert len(shape.roots) == len(asked)
    assert 0 <= shape.num_nodes <= min(max_nodes, 2 * size)
    assert all(rows > 0 for rows in shape.levels)
    assert len(shape.levels) < max((one.limits.max_levels for one in asked), default=1)


def test_who_does_not_earn_it_is_left_alone_however_it_was_verified() -> None:
    """`verified` judges as `choose` does."""
    from cast_drafters.tree import tree_from_arrays

    step = costs(slope=0.05, host=0.2, num_sequences=2)
    poor = [tree_from_arrays([1], [-1], [math.log(0.03)])] * 2
    asked = []
    for chooses in (True, False):
        builder = make_builder("cast")
        counts = []
        for _ in range(12):
            limits = builder.limits(seats(2, 8), step)
            counts.append(sum(one.max_nodes > 0 for one in limits))
            if chooses:
                poor_now = builder.choose(poor, seats(2, 8), step)
            else:
                builder.verified(poor_now, seats(2, 8), step)
        asked.append(counts)
    assert asked[0] == asked[1]
    assert min(asked[0]) == 0
