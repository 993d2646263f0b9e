"""Draft trees: shape, masks, and the three ways of taking a smaller tree out of a larger one."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from cast_drafters.tree import EMPTY_TREE, DraftTree, pack_mask, tree_from_arrays, unpack_mask

calm = settings(deadline=None)


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 12) -> DraftTree:
    """Any tree, with ties. Node i holds token i, by which `nodes_of` knows it in a subtree."""
    num_nodes = draw(st.integers(0, max_nodes))
    parents = [draw(st.integers(-1, node - 1)) for node in range(num_nodes)]
    log_probs: list[float] = []
    for parent in parents:
        above = log_probs[parent] if parent >= 0 else 0.0
        log_probs.append(above - draw(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0])))
    return tree_from_arrays(list(range(num_nodes)), parents, log_probs)


def nodes_of(subtree: DraftTree) -> list[int]:
    """Nodes of the tree from `trees` that `subtree` was taken from."""
    return [int(token) for token in subtree.token_ids_T]


def is_valid_subtree(subtree: DraftTree, tree: DraftTree) -> bool:
    tree_from_arrays(subtree.token_ids_T, subtree.parents_T, subtree.log_probs_T)
    nodes = nodes_of(subtree)
    parents = [nodes[p] if p >= 0 else -1 for p in subtree.parents_T.tolist()]
    return (
        nodes == sorted(set(nodes))
        and parents == tree.parents_T[nodes].tolist()
        and subtree.log_probs_T.tolist() == tree.log_probs_T[nodes].tolist()
    )


@calm
@given(trees())
def test_mask_is_the_transitive_closure(tree: DraftTree) -> None:
    num_rows = len(tree) + 1
    edges_RR = np.eye(num_rows, dtype=np.int64)
    edges_RR[np.arange(1, num_rows), tree.parents_T + 1] = 1
    closure_RR = np.linalg.matrix_power(edges_RR, num_rows) > 0
    mask_RR = tree.ancestor_mask()
    assert mask_RR.dtype == np.bool_
    assert (mask_RR == closure_RR).all()
    assert (mask_RR.sum(axis=1)[1:] == tree.depths_T + 1).all()


def test_shape_of_a_tree() -> None:
    tree = tree_from_arrays([5, 6, 7, 5], [-1, 0, 0, 2], [-0.1, -0.2, -0.3, -0.4])
    assert len(tree) == 4
    assert tree.depths_T.tolist() == [1, 2, 2, 3]
    assert tree.depths_T.dtype == np.int32
    assert tree.ancestor_mask().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert tree.children() == {(-1, 5): 0, (0, 6): 1, (0, 7): 2, (2, 5): 3}


def test_first_of_equal_siblings_is_the_child() -> None:
    tree = tree_from_arrays([5, 5, 6, 6], [-1, -1, 1, 1], [-1.0, -0.5, -0.5, -0.5])
    assert tree.children() == {(-1, 5): 0, (1, 6): 2}


def test_empty_tree() -> None:
    assert len(EMPTY_TREE) == 0
    assert EMPTY_TREE.ancestor_mask().tolist() == [[True]]
    assert EMPTY_TREE.depths_T.tolist() == []
    assert EMPTY_TREE.children() == {}
    for subtree in (EMPTY_TREE.best(3), EMPTY_TREE.as_chain(3)):
        assert len(subtree) == 0
    assert not any(
        array.flags.writeable
        for array in (EMPTY_TREE.token_ids_T, EMPTY_TREE.parents_T, EMPTY_TREE.log_probs_T)
    )


@pytest.mark.parametrize(
    ("token_ids", "parents", "log_probs", "message"),
    [
        ([1, 2], [-1], [0.0], r"one length, got shapes \(\(2,\), \(1,\), \(1,\)\)"),
        ([[1]], [[-1]], [[0.0]], "one length"),
        (1, -1, 0.0, "one length"),
        ([1, 2], [-1, 1], [0.0, 0.0], "parent of node 1 must be -1 or an earlier node, got 1"),
        ([1, 2], [5, 0], [0.0, 0.0], "parent of node 0 .* got 5"),
        ([1, 2], [-1, -2], [0.0, 0.0], "parent of node 1 .* got -2"),
        ([1], [-1], [0.5], r"log-probability of node 0 .* \(0.0\), got 0.5"),
        ([1, 2], [-1, 0], [-1.0, -0.5], r"log-probability of node 1 .* \(-1.0\), got -0.5"),
        ([1], [-1], [float("nan")], "got nan"),
    ],
)
def test_invalid_arrays(
    token_ids: ArrayLike, parents: ArrayLike, log_probs: ArrayLike, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tree_from_arrays(token_ids, parents, log_probs)


def test_arrays_get_their_types() -> None:
    tree = tree_from_arrays([1], [-1], [0])
    assert tree.token_ids_T.dtype == np.int64
    assert tree.parents_T.dtype == np.int32
    assert tree.log_probs_T.dtype == np.float64


@calm
@given(trees(max_nodes=8), st.integers(0, 9))
def test_best_is_optimal(tree: DraftTree, num_nodes: int) -> None:
    subtree = tree.best(num_nodes)
    assert is_valid_subtree(subtree, tree)
    probs_T, parents_T = np.exp(tree.log_probs_T), tree.parents_T.tolist()
    closed_sets = (
        nodes
        for nodes in combinations(range(len(tree)), min(num_nodes, len(tree)))
        if all(parents_T[node] in (-1, *nodes) for node in nodes)
    )
    optimum = max(probs_T[list(nodes)].sum() for nodes in closed_sets)
    assert np.exp(subtree.log_probs_T).sum() == pytest.approx(optimum)


@calm
@given(trees())
def test_best_is_monotone(tree: DraftTree) -> None:
    chosen = [set(nodes_of(tree.best(num_nodes))) for num_nodes in range(len(tree) + 1)]
    assert all(fewer < more for fewer, more in pairwise(chosen))


def test_parent_outranks_its_child_on_ties() -> None:
    tree = tree_from_arrays([0, 1, 2], [-1, 0, -1], [-1.0, -1.0, -1.0])
    assert nodes_of(tree.best(1)) == [0]
    assert nodes_of(tree.best(2)) == [0, 1]


@calm
@given(trees(), st.integers(0, 13))
def test_chain_takes_the_likeliest_child(tree: DraftTree, length: int) -> None:
    chain = tree.as_chain(length)
    assert is_valid_subtree(chain, tree)
    assert chain.parents_T.tolist() == list(range(-1, len(chain) - 1))
    for parent, node in zip([-1, *nodes_of(chain)], nodes_of(chain), strict=False):
        siblings_T = tree.parents_T == parent
        assert tree.log_probs_T[node] == tree.log_probs_T[siblings_T].max()
    end = nodes_of(chain)[-1] if len(chain) else -1
    assert len(chain) == length or end not in tree.parents_T


@calm
@given(st.sampled_from([0, 1, 8, 63, 64, 65, 130]), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_masks_survive_packing(num_cols: int, num_rows: int, seed: int) -> None:
    mask_RC = np.random.default_rng(seed).random((num_rows, num_cols)) < 0.5
    words_RW = pack_mask(mask_RC)
    assert words_RW.dtype == np.int64
    assert words_RW.shape == (num_rows, -(-num_cols // 64))
    assert (unpack_mask(words_RW, num_cols) == mask_RC).all()


@pytest.mark.parametrize("column", [0, 1, 62, 63, 64, 65, 127, 129])
def test_bit_of_a_column(column: int) -> None:
    mask_RC = np.zeros((2, 130), np.bool_)
    mask_RC[1, column] = True
    words_RW = pack_mask(mask_RC)
    word, bit = divmod(column, 64)
    assert not words_RW[0].any()
    assert words_RW[1].view(np.uint64).tolist() == [
        1 << bit if other == word else 0 for other in range(3)
    ]


def test_packing_takes_any_memory_layout() -> None:
    mask_RC = np.asfortranarray(np.random.default_rng(0).random((7, 100)) < 0.5)
    words_RW = np.asfortranarray(pack_mask(mask_RC))
    assert (unpack_mask(words_RW, 100) == mask_RC).all()
