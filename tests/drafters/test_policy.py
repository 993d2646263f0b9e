"""Policies: what their names mean, and that they never ask for or keep more than they may."""

from __future__ import annotations

import pytest

from cast_drafters.base import DraftLimits
from cast_drafters.policy import (
    POLICIES,
    ChainPolicy,
    DraftPolicy,
    OffPolicy,
    TreePolicy,
    parse_policy,
)
from cast_drafters.tree import DraftTree, tree_from_arrays


@pytest.fixture
def candidates() -> DraftTree:
    return tree_from_arrays([10, 11, 12, 13, 14], [-1, -1, 0, 1, 2], [-0.5, -0.4, -0.6, -2.0, -0.7])


@pytest.mark.parametrize(
    ("text", "cap", "policy"),
    [
        ("off", None, OffPolicy()),
        ("off", 3, OffPolicy()),
        ("chain", None, ChainPolicy(4)),
        ("chain:1", None, ChainPolicy(1)),
        ("chain:4", 2, ChainPolicy(2)),
        ("chain:4", 9, ChainPolicy(4)),
        ("tree", None, TreePolicy(8)),
        ("tree", 3, TreePolicy(3)),
        ("tree:16", None, TreePolicy(16)),
        ("tree:1024", None, TreePolicy(1024)),
        ("tree:16", 0, OffPolicy()),
    ],
)
def test_parse(text: str, cap: int | None, policy: DraftPolicy) -> None:
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
        "tree:1" + "0" * 5000,
        ":4",
    ],
)
def test_parse_names_the_fault_and_the_choices(text: str) -> None:
    with pytest.raises(ValueError, match="choose off, chain, tree, chain:N, tree:N") as failure:
        parse_policy(text)
    assert repr(text) in str(failure.value)
    assert "N from 1 to 1024" in str(failure.value)


def test_negative_cap() -> None:
    with pytest.raises(ValueError, match=r"max_draft_tokens must be 0 or more, got -1\."):
        parse_policy("tree", -1)


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize("max_nodes", [-1, 0, 1, 3, 100])
def test_never_more_than_affordable(kind: str, max_nodes: int, candidates: DraftTree) -> None:
    policy = parse_policy(kind)
    limits = policy.limits(max_nodes)
    assert 0 <= limits.max_depth <= limits.max_nodes <= max(0, max_nodes)
    assert 0 <= limits.max_width <= limits.max_nodes
    assert len(policy.build(candidates, max_nodes)) <= limits.max_nodes


def test_limits() -> None:
    assert parse_policy("off").limits(100) == DraftLimits(0, 0, 0)
    assert parse_policy("chain:5").limits(100) == DraftLimits(5, 5, 1)
    assert parse_policy("chain:5").limits(3) == DraftLimits(3, 3, 1)
    assert parse_policy("tree:16").limits(100) == DraftLimits(16, 8, 4)
    assert parse_policy("tree:16").limits(2) == DraftLimits(2, 2, 2)


def test_build(candidates: DraftTree) -> None:
    assert len(parse_policy("off").build(candidates, 100)) == 0
    assert parse_policy("chain:4").build(candidates, 100).token_ids_T.tolist() == [11, 13]
    assert parse_policy("tree:3").build(candidates, 100).token_ids_T.tolist() == [10, 11, 12]
    assert parse_policy("tree:3").build(candidates, 1).token_ids_T.tolist() == [11]


def test_table_is_read_only() -> None:
    with pytest.raises(TypeError):
        POLICIES["mine"] = POLICIES["off"]  # type: ignore[index]
