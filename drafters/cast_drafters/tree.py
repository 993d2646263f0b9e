"""Draft trees and the bit masks that attention reads.

Shape suffixes: T nodes of a tree, R = T + 1 rows of a mask (the root, then the nodes), C columns of
a mask, W int64 words of a packed row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

# By their numbers in `sources_T`: what a drafter is for (a head, a model, n-grams), what it has
# beside that, and the text that a client expects.
SOURCES: Final = ("drafter", "text", "store", "prediction")
PREDICTED: Final = SOURCES.index("prediction")


@dataclass(frozen=True, slots=True, eq=False)
class DraftTree:
    """Candidate continuations of one sequence. Node i follows node `parents_T[i]`.

    Parent -1 is the root, the last committed token, which is not itself a node. Parents come before
    their children. Siblings may hold the same token.
    `log_probs_T` estimates the natural log-probability that the whole path to a node is accepted;
    it never rises along a path. Use `tree_from_arrays` where these rules are in doubt.
    `sources_T` tells which of `SOURCES` proposed a node, where there are several;
    `confidences_T` how sure it was of the node given its parent, before any calibration (natural
    logarithm); `ranks_T` how many siblings it preferred.
    """

    token_ids_T: NDArray[np.int64]
    parents_T: NDArray[np.int32]
    log_probs_T: NDArray[np.float64]
    sources_T: NDArray[np.int8] | None = None
    confidences_T: NDArray[np.float64] | None = None
    ranks_T: NDArray[np.int16] | None = None

    def __len__(self) -> int:
        return len(self.token_ids_T)

    @property
    def depths_T(self) -> NDArray[np.int32]:
        """Distance of each node from the root; children of the root have depth 1."""
        depths_R = [0]
        for parent in self.parents_T.tolist():
            depths_R.append(depths_R[parent + 1] + 1)
        return np.array(depths_R[1:], np.int32)

    def ancestor_mask(self) -> NDArray[np.bool_]:
        """Who sees whom, [R, R]: row and column 0 are the root, i + 1 is node i.

        [r, c] is True where c is r itself or one of its ancestors.
        """
        num_rows = len(self) + 1
        num_bytes = -(-num_rows // 8)
        # Rows as Python integers: three times as fast as numpy rows at the usual 8 to 60 nodes.
        bits_R = [1]
        for row, parent in enumerate(self.parents_T.tolist(), start=1):
            bits_R.append(bits_R[parent + 1] | 1 << row)
        packed = b"".join([bits.to_bytes(num_bytes, "little") for bits in bits_R])
        packed_R8 = np.frombuffer(packed, np.uint8).reshape(num_rows, num_bytes)
        return _unpack(packed_R8, num_rows)

    def children(self) -> dict[tuple[int, int], int]:
        """Maps (parent node or -1, token id) to the child node; the first of equal siblings."""
        children: dict[tuple[int, int], int] = {}
        edges = zip(self.parents_T.tolist(), self.token_ids_T.tolist(), strict=True)
        for node, edge in enumerate(edges):
            children.setdefault(edge, node)
        return children

    def best(self, num_nodes: int) -> DraftTree:
        """The `num_nodes` most likely nodes, in the order they have here.

        On ties the earlier node wins. As a parent is earlier than its children and never less
        likely, the result is a tree.
        """
        assert num_nodes >= 0, num_nodes
        if num_nodes >= len(self):
            return self
        ranking_T = np.argsort(-self.log_probs_T, kind="stable")
        return self._subtree(np.sort(ranking_T[:num_nodes]))

    def as_chain(self, length: int) -> DraftTree:
        """The path that always takes the most likely child, at most `length` nodes."""
        likeliest: dict[int, int] = {}
        log_probs = self.log_probs_T.tolist()
        for node, parent in enumerate(self.parents_T.tolist()):
            rival = likeliest.setdefault(parent, node)
            if log_probs[node] > log_probs[rival]:
                likeliest[parent] = node
        path: list[int] = []
        node = -1
        while len(path) < length and node in likeliest:
            node = likeliest[node]
            path.append(node)
        return self._subtree(np.array(path, np.intp))

    def _subtree(self, kept: NDArray[np.intp]) -> DraftTree:
        """The nodes `kept`: rising, and every node's parent among them."""
        renumbered_R = np.full(len(self) + 1, -1, np.int32)
        renumbered_R[kept + 1] = np.arange(len(kept))
        parents_T = renumbered_R[self.parents_T[kept] + 1]
        return DraftTree(
            self.token_ids_T[kept],
            parents_T,
            self.log_probs_T[kept],
            None if self.sources_T is None else self.sources_T[kept],
            None if self.confidences_T is None else self.confidences_T[kept],
            None if self.ranks_T is None else self.ranks_T[kept],
        )


def tree_from_arrays(token_ids: ArrayLike, parents: ArrayLike, log_probs: ArrayLike) -> DraftTree:
    """Checks the rules of `DraftTree`. Raises `ValueError` that names the first offending value."""
    tree = DraftTree(
        np.asarray(token_ids, np.int64),
        np.asarray(parents, np.int32),
        np.asarray(log_probs, np.float64),
    )
    shapes = (tree.token_ids_T.shape, tree.parents_T.shape, tree.log_probs_T.shape)
    if len(shapes[0]) != 1 or len(set(shapes)) != 1:
        raise ValueError(
            f"token_ids, parents and log_probs must be lists of one length, got shapes {shapes}."
        )
    wrong_T = (tree.parents_T < -1) | (tree.parents_T >= np.arange(len(tree)))
    if wrong_T.any():
        node = int(wrong_T.argmax())
        raise ValueError(
            f"The parent of node {node} must be -1 or an earlier node, got {tree.parents_T[node]}."
        )
    above_T = np.append(tree.log_probs_T, 0.0)[tree.parents_T]  # parent -1 finds the root's 0
    falls_T = tree.log_probs_T <= above_T  # NaN fails the comparison
    if not falls_T.all():
        node = int(falls_T.argmin())
        raise ValueError(
            f"The log-probability of node {node} must not exceed its parent's "
            f"({above_T[node]}), got {tree.log_probs_T[node]}."
        )
    return tree


def pack_mask(mask_RC: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Packs rows into int64 words, [R, ceil(C / 64)]: bit j of word w is column 64 * w + j."""
    packed_R8 = np.packbits(mask_RC, axis=1, bitorder="little")
    num_rows, num_bytes = packed_R8.shape
    words_RW = np.zeros((num_rows, -(-num_bytes // 8)), "<i8")
    words_RW.view(np.uint8)[:, :num_bytes] = packed_R8
    return words_RW.astype(np.int64, copy=False)


def unpack_mask(words_RW: NDArray[np.int64], num_cols: int) -> NDArray[np.bool_]:
    """Undoes `pack_mask`: bool [R, num_cols]."""
    packed_R8 = np.ascontiguousarray(words_RW, "<i8").view(np.uint8)
    return _unpack(packed_R8, num_cols)


def _unpack(packed_R8: NDArray[np.uint8], num_cols: int) -> NDArray[np.bool_]:
    return np.unpackbits(packed_R8, axis=1, count=num_cols, bitorder="little").view(np.bool_)


def _empty_tree() -> DraftTree:
    tree = tree_from_arrays([], [], [])
    for array in (tree.token_ids_T, tree.parents_T, tree.log_probs_T):
        array.setflags(write=False)
    return tree


EMPTY_TREE: Final = _empty_tree()
