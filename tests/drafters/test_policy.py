"""Policies: what their names mean, and that their builders never take more than they may."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders_at_work import costs, frontier, seats

from cast_drafters.base import DraftLimits, Frontier
from cast_drafters.builders.base import Outcome
from cast_drafters.policy import OFF, POLICIES, Policy, make_builder, parse_policy
from cast_drafters.tree import DraftTree, tree_from_arrays


@pytest.fixture
def candidates() -> DraftTree:
    return tree_from_arrays([10, 11, 12, 13, 14], [-1, -1, 0, 1, 2], [-0.5, -0.4, -0.6, -2.0, -0.7])


@pytest.mark.parametrize(
    ("text", "cap", "policy"),
    [
        ("off", None, OFF),
        ("off", 3, OFF),
        ("chain", None, Policy("chain", 4)),
        ("chain:1", None, Policy("chain", 1)),
        ("chain:4", 2, Policy("chain", 2)),
        ("chain:4", 9, Policy("chain", 4)),
        ("tree", None, Policy("tree", 8)),
        ("tree", 3, Policy("tree", 3)),
        ("tree:16x3", None, Policy("tree", 16, 3)),
        ("tree:1024", None, Policy("tree", 1024)),
        ("tree:16", 0, OFF),
        ("cast", None, Policy("cast", 32)),
        ("cast", 5, Policy("cast", 5)),
        ("eagle2", None, Policy("eagle2", 59)),
    ],
)
def test_parse(text: str, cap: int | None, policy: Policy) -> None:
    parsed = parse_policy(text, cap)
    assert parsed == policy
    assert parse_policy(parsed.name) == policy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eagle",
        "Tree",
        "off:1",
        "off:",
        "chain:",
        "chain:0",
        "chain:-1",
        "chain:1025",
        "chain:1.5",
        "chain: 4",
        "chain:٤",
        "chain:4:4",
        "tree:4x",
        "tree:4x0",
        "tree:4x2x2",
        "tree:x2",
        "tree:1" + "0" * 5000,
        ":4",
    ],
)
def test_parse_names_the_fault_and_the_choices(text: str) -> None:
    with pytest.raises(ValueError, match=r"choose off, chain, tree, eagle2, .*, cast,") as failure:
        parse_policy(text)
    assert repr(text) in str(failure.value)
    assert "N from 1 to 1024" in str(failure.value)


def test_negative_cap() -> None:
    with pytest.raises(ValueError, match=r"max_draft_tokens must be 0 or more, got -1\."):
        parse_policy("tree", -1)


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("max_nodes", [0, 1, 3, 100])
@pytest.mark.parametrize("size", [1, 4, 40])
def test_never_more_than_affordable(kind, max_nodes, size, candidates: DraftTree) -> None:
    builder = make_builder(kind)
    for _ in range(3):
        step = costs(max_nodes=max_nodes)
        asked = builder.limits(seats(2, size), step)
        for one in asked:
            assert 0 <= one.max_nodes <= min(size, max_nodes)
            assert min(one.max_depth, one.max_width) >= 0
        trees = [candidates.best(one.max_nodes) for one in asked]
        kept = builder.choose(trees, seats(2, size), step)
        assert sum(map(len, kept)) <= max_nodes
        assert all(len(tree) <= size for tree in kept)


@pytest.mark.parametrize("kind", POLICIES)
def test_levels_end(kind) -> None:
    builder = make_builder(kind)
    step = costs(slope=0.0)
    [limits] = builder.limits(seats(1, 20), step)
    level, open_nodes = 0, [0.0]
    while limits.max_nodes and level < 100:
        one = frontier(limits, open_nodes, candidates=[-0.1] * level)
        [width] = builder.widths(level, [one], step)
        assert 0 <= width <= len(open_nodes)
        if not width:
            break
        builder.ran(level, [one], [[[0.9, 0.05]] * width])
        level, open_nodes = level + 1, [-0.1 * (level + 1), -2.0]
    assert level < 100


def test_limits() -> None:
    def limits(text: str, max_nodes: int = 100) -> DraftLimits:
        policy = parse_policy(text)
        [seat] = seats(1, policy.size, levels=policy.levels)
        [one] = make_builder(policy.kind).limits([seat], costs(max_nodes=max_nodes))
        return one

    assert limits("off") == DraftLimits(0, 0, 0)
    assert limits("chain:5") == DraftLimits(5, 5, 1, max_levels=5, level_width=1)
    assert limits("chain:5", 3) == DraftLimits(3, 3, 1, max_levels=3, level_width=1)
    assert limits("tree:16") == DraftLimits(16, 8, 4, max_levels=4)
    assert limits("tree:16x1") == DraftLimits(16, 8, 4, max_levels=1)
    assert limits("tree:16", 2) == DraftLimits(2, 2, 2, max_levels=1)
    assert limits("eagle2") == DraftLimits(59, 6, 10, max_levels=6, level_width=10)


def test_build(candidates: DraftTree) -> None:
    def tokens(text: str, max_nodes: int = 100) -> list[int]:
        policy = parse_policy(text)
        step = costs(max_nodes=max_nodes)
        [tree] = make_builder(policy.kind).choose([candidates], seats(1, policy.size), step)
        return tree.token_ids_T.tolist()

    assert tokens("off") == []
    assert tokens("chain:4") == [11, 13]
    assert tokens("tree:3") == [10, 11, 12]
    assert tokens("tree:3", 1) == [11]


def test_sequences_share_rows_that_are_short(candidates: DraftTree) -> None:
    builder = make_builder("tree")
    step = costs(max_nodes=5)
    assert [one.max_nodes for one in builder.limits(seats(2, 8), step)] == [2, 2]
    kept = builder.choose([candidates, candidates], seats(2, 8), step)
    assert [len(tree) for tree in kept] == [2, 2]


def test_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        POLICIES["mine"] = POLICIES["off"]  # type: ignore[index]


def test_empty_trees_stay_empty() -> None:
    empty = tree_from_arrays([], [], [])
    for kind in POLICIES:
        builder = make_builder(kind)
        builder.limits(seats(2, 4), costs())
        assert [len(t) for t in builder.choose([empty, empty], seats(2, 4), costs())] == [0, 0]
    assert np.isfinite(costs().verify(3))


def test_who_pauses_comes_back_while_others_draft() -> None:
    """Seat 1 has nothing to offer for a while, seat 0 always has."""
    builder = make_builder("cast")
    good = tree_from_arrays([1, 2], [-1, 0], np.log([0.95, 0.9]))
    nothing = tree_from_arrays([], [], [])
    step = costs(slope=0.05, num_sequences=2, host=0.05)
    asked = []
    for _ in range(150):
        limits = builder.limits(seats(2, 8), step)
        asked.append(limits[1].max_nodes > 0)
        builder.choose([good if limits[0].max_nodes else nothing, nothing], seats(2, 8), step)
    assert not all(asked[20:])
    gaps = np.diff(np.flatnonzero(asked))
    assert 33 <= gaps.max() <= 37  # some steps in between are plain for all
    assert sum(asked[-70:]) >= 2


def test_passes_that_do_not_pay_are_no_flood_after_long_success() -> None:
    builder = make_builder("cast")
    step = costs(slope=0.02, draft=0.1)

    def passes(found: list[float], count: int) -> int:
        ran = 0
        for _ in range(count):
            builder.limits(seats(1, 8), step)
            root = frontier()
            [width] = builder.widths(0, [root], step)
            if width:
                builder.ran(0, [root], [[found]])
            ran += width
        return ran

    assert passes([0.9], 400) == 400
    passes([0.0], 60)  # until that is unlearnt
    assert passes([0.0], 100) * 0.1 <= 0.5 + 0.015 * 100 + 0.1


def test_a_head_that_seldom_runs_is_not_expected_to_pay_off_what_it_missed() -> None:
    builder = make_builder("cast")
    step = costs(slope=0.02, draft=0.3)

    def width(root: Frontier) -> int:
        builder.limits(seats(1, 8), step)
        [one] = builder.widths(0, [root], step)
        return one

    far_behind = frontier(num_rows=100)
    assert width(far_behind) == 1
    for _ in range(300):
        width(frontier(free=[[0.97]]))  # what is known for nothing is enough
    assert width(far_behind) == 0
    assert width(frontier()) == 1


def test_what_a_client_expects_is_tried_whatever_drafts_have_brought_others() -> None:
    """Seat 0 has a prediction of its client; drafts have never paid, so seat 1 rests."""
    builder = make_builder("cast")
    step = costs(slope=0.0, num_sequences=2)
    plain = seats(2, 8)

    def disappoint(asking) -> int:
        """One step that drafts in vain, or is plain; how many sequences it drafted for."""
        count = sum(one.max_nodes > 0 for one in builder.limits(asking, step))
        builder.settle(Outcome(count, 0, 1.0 + count, 1.0), step)
        return count

    for _ in range(60):
        disappoint(plain)
    mixed = [replace(plain[0], request_id="new", has_prediction=True), plain[1]]
    asked = []
    for _ in range(10):
        asked.append([one.max_nodes > 0 for one in builder.limits(mixed, step)])
        builder.settle(Outcome(4.0, 4, 1.1, 1.0), step)
    assert [first for first, _ in asked].count(True) == 10
    assert [second for _, second in asked].count(True) <= 2
    late = [disappoint(mixed) for _ in range(400)][-100:]
    assert late.count(0) > 80  # an expectation that is kept no more rests like any other


@pytest.mark.parametrize(
    ("expected", "accepted", "drafted_seconds", "plain_seconds", "last", "most"),
    [
        # Steps with drafts take twice as long and bring a quarter more; nobody predicts it.
        (1.0, 1, 2.0, 1.0, 300, 16),
        # By prediction drafts gain 10 %; but plain steps take 0.7 of what is predicted.
        (0.4, 0.4, 1.0, 0.7, 200, 60),
        # Drafts gain 3 %, which may be luck.
        (0.12, 0.12, 1.0, 1.0, 300, 40),
        # Drafts would gain a quarter, if what is foreseen came true.
        (2.0, 0.4, 1.25, 1.0, 200, 16),
    ],
)
def test_drafting_that_does_not_pay_rests_longer_and_longer(
    expected, accepted, drafted_seconds, plain_seconds, last, most
) -> None:
    builder = make_builder("cast")
    step = costs(slope=0.0, num_sequences=4)
    drafted = []
    for _ in range(2 * last):
        limits = builder.limits(seats(4, 8), step)
        drafted.append(limits[0].max_nodes > 0)
        builder.choose([tree_from_arrays([1], [-1], [-0.1])] * 4, seats(4, 8), step)
        if drafted[-1]:
            builder.settle(Outcome(expected, accepted, drafted_seconds, 1.0), step)
        else:
            builder.settle(Outcome(0.0, 0, plain_seconds, 1.0), step)
    assert sum(drafted[:32]) > 25
    assert sum(drafted[-last:]) <= most
