"""A chain and a tree become one: a tree within its limits, with the chain in it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cast_drafters.base import DraftLimits
from cast_drafters.grafting import graft, share_rest
from cast_drafters.tree import EMPTY_TREE, PREDICTED, DraftTree, tree_from_arrays

WIDE = DraftLimits(100, 100, 100)


@st.composite
def trees(draw) -> DraftTree:
    """Siblings hold different tokens; their probabilities sum to 1 at most."""
    tokens, parents, paths, taken = [], [], [], {}
    for node in range(draw(st.integers(0, 12))):
        parent = draw(st.integers(-1, node - 1))
        above = paths[parent] if parent >= 0 else 0.0
        used, left = taken.setdefault(parent, (set(), 1.0))
        token = draw(st.integers(0, 3).filter(lambda one, used=used: one not in used) | st.none())
        if token is None:
            token = 100 + node
        share = draw(st.floats(0.05, 0.9)) * left
        taken[parent] = (used | {token}, left - share)
        tokens.append(token)
        parents.append(parent)
        paths.append(above + math.log(share))
    return tree_from_arrays(tokens, parents, paths)


CHAINS = st.lists(st.tuples(st.integers(0, 3), st.floats(-3, -0.01)), min_size=1, max_size=8)
LIMITS = st.builds(DraftLimits, st.integers(1, 20), st.integers(1, 8), st.integers(1, 4))


@given(tree=trees(), chain=CHAINS, limits=LIMITS)
def test_it_is_a_tree_within_its_limits(tree, chain, limits) -> None:
    width = np.bincount(tree.parents_T + 1, minlength=1).max(initial=0)
    depth = max(tree.depths_T, default=0)
    if width > limits.max_width or depth > limits.max_depth:
        tree = EMPTY_TREE
    found = graft(tree, chain, PREDICTED, limits)
    tree_from_arrays(found.token_ids_T, found.parents_T, found.log_probs_T)
    assert 0 < len(found) <= limits.max_nodes
    assert max(found.depths_T) <= limits.max_depth
    assert np.bincount(found.parents_T + 1).max() <= limits.max_width


@given(tree=trees(), chain=CHAINS)
def test_with_room_for_all_nothing_is_lost_and_nothing_is_there_twice(tree, chain) -> None:
    found = graft(tree, chain, PREDICTED, WIDE)
    edges = found.children()
    assert len(edges) == len(found)
    node = -1
    for token, log_prob in chain:
        above = found.log_probs_T[node] if node >= 0 else 0.0
        node = edges[node, token]
        assert found.log_probs_T[node] - above >= log_prob - 1e-9
        assert found.sources_T[node] == PREDICTED
    assert (found.sources_T == PREDICTED).sum() == len(chain)
    assert {tuple(path) for path in paths(tree)} <= {tuple(path) for path in paths(found)}


@given(tree=trees(), chain=CHAINS)
def test_children_together_stay_at_most_certain(tree, chain) -> None:
    found = graft(tree, chain, PREDICTED, WIDE)
    above = np.append(found.log_probs_T, 0.0)[found.parents_T]
    sums = np.bincount(found.parents_T + 1, np.exp(found.log_probs_T - above))
    assert sums.max() <= 1 + 1e-9


def paths(tree: DraftTree) -> list[list[int]]:
    found: list[list[int]] = []
    for token, parent in zip(tree.token_ids_T.tolist(), tree.parents_T.tolist(), strict=True):
        found.append([*(found[parent] if parent >= 0 else []), token])
    return found


def test_rivals_share_what_is_left_and_take_their_children_along() -> None:
    tree = tree_from_arrays([1, 2, 3], [-1, -1, 0], np.log([0.6, 0.3, 0.3]))
    found = graft(tree, [(9, math.log(0.7))], PREDICTED, WIDE)
    assert np.exp(found.log_probs_T).tolist() == pytest.approx([0.2, 0.1, 0.1, 0.7])


def test_who_agrees_is_believed_as_far_as_the_surer_one() -> None:
    tree = tree_from_arrays([1, 2], [-1, -1], np.log([0.6, 0.3]))
    for chance, expected in ((0.9, [0.9, 0.1]), (0.2, [0.6, 0.3])):
        found = graft(tree, [(1, math.log(chance))], PREDICTED, WIDE)
        assert np.exp(found.log_probs_T).tolist() == pytest.approx(expected)


def test_without_room_beside_it_the_least_likely_leaves_with_its_children() -> None:
    tree = tree_from_arrays([1, 2, 3], [-1, -1, 1], np.log([0.5, 0.3, 0.3]))
    found = graft(tree, [(9, math.log(0.4))], PREDICTED, DraftLimits(9, 9, 2))
    assert found.token_ids_T.tolist() == [1, 9]


def test_what_is_left_is_shared_in_proportion() -> None:
    assert share_rest(0.5, [0.3, 0.1]) == [0.3, 0.1]
    assert share_rest(0.8, [0.3, 0.1]) == pytest.approx([0.15, 0.05])
    assert share_rest(0.8, []) == []
