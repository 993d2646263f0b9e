"""Prompt lookup: it copies what it should, branches where the past did, and keeps up cheaply."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters.base import DraftContext, DraftLimits
from cast_drafters.ngram import NgramDrafter
from cast_drafters.suffix_index import SuffixIndex
from cast_drafters.tree import DraftTree

calm = settings(deadline=None)
token_lists = st.lists(st.integers(0, 3), max_size=60)
WIDE = DraftLimits(max_nodes=16, max_depth=8, max_width=4)
CHAIN = DraftLimits(max_nodes=8, max_depth=8, max_width=1)


def draft(
    token_ids: list[int], limits: DraftLimits = WIDE, drafter: NgramDrafter | None = None
) -> DraftTree:
    return (drafter or NgramDrafter()).propose(
        [DraftContext("a", token_ids, limits, temperature=0.0, seed=0)]
    )[0]


def probability(tree: DraftTree, *path: int) -> float:
    """Of a path of tokens from the root; 0 where the tree has no such path."""
    children, node = tree.children(), -1
    for token in path:
        if (node, token) not in children:
            return 0.0
        node = children[node, token]
    return math.exp(tree.log_probs_T[node])


def as_lists(tree: DraftTree) -> tuple[list[int], list[int], list[float]]:
    return tree.token_ids_T.tolist(), tree.parents_T.tolist(), tree.log_probs_T.tolist()


def test_copies_what_followed_before() -> None:
    quote = [10, 11, 12, 13, 14, 15]
    tree = draft([1, *quote, 2, 3, *quote[:3]], CHAIN)
    assert tree.token_ids_T.tolist()[:4] == [13, 14, 15, 2]


@pytest.mark.parametrize("period", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("num_tokens", [20, 21, 23, 40])
def test_goes_on_with_a_loop(period: int, num_tokens: int) -> None:
    loop = [100 + position % period for position in range(num_tokens + 8)]
    assert draft(loop[:num_tokens], CHAIN).token_ids_T.tolist() == loop[num_tokens:]


def test_a_loop_is_seen_after_one_and_a_half_turns() -> None:
    assert draft([1, 2, 3, 4, 1, 2], CHAIN).token_ids_T.tolist()[:6] == [3, 4, 1, 2, 3, 4]


def test_branches_where_the_past_did() -> None:
    tree = draft([1, 2, 3, 30, 1, 2, 4, 40, 1, 2])
    assert probability(tree, 3, 30) > 0
    assert probability(tree, 4, 40) > 0
    assert probability(tree, 4) > probability(tree, 3), "the newer one is likelier"


def test_what_followed_more_often_is_likelier() -> None:
    tree = draft([1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 4, 0, 1, 2], WIDE)
    assert probability(tree, 3) > probability(tree, 4) > 0


def test_a_longer_match_outweighs_many_short_ones() -> None:
    tree = draft([7, 8, 9, 1, 0, 9, 2, 0, 9, 2, 0, 9, 2, 0, 7, 8, 9])
    assert probability(tree, 1) > probability(tree, 2) > 0


def test_confidence_grows_with_the_match() -> None:
    seen = [1, 2, 3, 4, 5, 9]
    by_length = [probability(draft([*seen, 8, *seen[5 - n : 5]]), 9) for n in range(1, 6)]
    assert by_length[0] < 0.2
    assert by_length[:4] == sorted(set(by_length[:4]))
    assert by_length[3] >= 0.75
    assert by_length[4] == by_length[3], "no more than max_ngram tokens are compared"


def test_nothing_seen_before_nothing_drafted() -> None:
    assert len(draft([])) == 0
    assert len(draft([1])) == 0
    assert len(draft([1, 2, 3, 4, 5])) == 0


def test_hopeless_paths_are_not_offered() -> None:
    token_ids = [token for follower in range(60) for token in (1, 100 + follower)]
    assert probability(draft([*token_ids, 1]), 159) < 0.05
    assert len(draft([*token_ids, 1], drafter=NgramDrafter(min_probability=0.05))) == 0


@calm
@given(token_lists, st.floats(0.01, 0.5))
def test_minimum_probability(token_ids: list[int], minimum: float) -> None:
    tree = draft(token_ids, drafter=NgramDrafter(min_probability=minimum))
    assert (tree.log_probs_T >= math.log(minimum)).all()


@calm
@given(token_lists, st.integers(1, 15))
def test_a_small_tree_is_the_best_of_a_large_one(token_ids: list[int], num_nodes: int) -> None:
    small = DraftLimits(num_nodes, WIDE.max_depth, WIDE.max_width)
    assert as_lists(draft(token_ids, small)) == as_lists(draft(token_ids).best(num_nodes))


@calm
@given(token_lists, st.lists(st.integers(0, 60)), st.sampled_from([2, 64]))
def test_growing_index_equals_a_fresh_one(
    token_ids: list[int], stops: list[int], max_occurrences: int
) -> None:
    drafter, live = NgramDrafter(max_occurrences=max_occurrences), token_ids[:1]
    drafter.begin("a", live)
    for stop in sorted(stops):
        live.extend(token_ids[len(live) : stop])
        draft(live, WIDE, drafter)
    live.extend(token_ids[len(live) :])
    fresh = NgramDrafter(max_occurrences=max_occurrences)
    assert as_lists(draft(live, WIDE, drafter)) == as_lists(draft(token_ids, WIDE, fresh))


@calm
@given(token_lists, token_lists)
def test_beginning_again_forgets_the_old_tokens(old: list[int], new: list[int]) -> None:
    drafter = NgramDrafter()
    drafter.begin("a", old)
    drafter.begin("a", new)
    assert as_lists(draft(new, WIDE, drafter)) == as_lists(draft(new))


def test_shrunk_sequence_is_read_anew() -> None:
    drafter = NgramDrafter()
    drafter.begin("a", [1, 2, 3, 1, 2, 4, 1, 2, 5])
    token_ids = [6, 7, 8, 6, 7]
    assert as_lists(draft(token_ids, WIDE, drafter)) == as_lists(draft(token_ids))


@pytest.mark.parametrize("option", ["max_ngram", "max_occurrences", "min_probability"])
def test_senseless_options(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option}.*, got .*0"):
        NgramDrafter(**{option: 0})


def test_sequences_do_not_mix() -> None:
    drafter = NgramDrafter()
    drafter.begin("other", [1, 2, 3, 1, 2, 3])
    assert len(draft([1, 2], WIDE, drafter)) == 0


def common_suffix(token_ids: list[int], position: int) -> int:
    """How many tokens before `position` equal the last ones, counted up to 4."""
    return next(
        (
            n
            for n in range(min(position, 4), 0, -1)
            if token_ids[position - n : position] == token_ids[-n:]
        ),
        0,
    )


@calm
@given(token_lists)
def test_matches_are_the_longest_common_suffixes(token_ids: list[int]) -> None:
    index = SuffixIndex(max_length=4, max_occurrences=100)
    index.extend(token_ids)
    matches = index.matches(token_ids)
    lengths = {position: common_suffix(token_ids, position) for position in range(len(token_ids))}
    assert matches == {position: length for position, length in lengths.items() if length}
    ranks = [(length, position) for position, length in matches.items()]
    assert ranks == sorted(ranks, reverse=True)


def test_only_the_newest_occurrences_are_followed() -> None:
    index = SuffixIndex(max_length=1, max_occurrences=3)
    token_ids = [5, 0] * 20 + [5]
    index.extend(token_ids)
    assert list(index.matches(token_ids)) == [39, 37, 35]
