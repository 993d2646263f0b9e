"""Adds a chain of guesses to a tree that somebody else has drafted.

What the chain says of a node is believed where it says more; the rivals of its nodes share what
probability it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cast_drafters.base import DraftLimits
from cast_drafters.tree import DraftTree


def graft(
    tree: DraftTree, chain: Sequence[tuple[int, float]], source: int, limits: DraftLimits
) -> DraftTree:
    """The likeliest nodes of both, within `limits`. `chain`: tokens from the root on, each with its
    natural log-probability given the one before. Its nodes are of `source`, whoever else had
    guessed them."""
    growing = _Grafting(tree, source, limits.max_width)
    node = -1
    for token, log_prob in chain[: limits.max_depth]:
        node = growing.add(node, token, log_prob)
    return growing.finish(limits.max_nodes)


def share_rest(likeliest: float, others: Sequence[float]) -> list[float]:
    """`others`, probabilities too, scaled down to what `likeliest` leaves of 1."""
    total = sum(others)
    rest = 1.0 - likeliest
    return [one * rest / total for one in others] if total > rest else list(others)


class _Grafting:
    """A tree as lists, with conditional log-probabilities, that grows at its end."""

    def __init__(self, tree: DraftTree, source: int, max_width: int) -> None:
        self._source, self._max_width = source, max_width
        self._tokens: list[int] = tree.token_ids_T.tolist()
        self._parents: list[int] = tree.parents_T.tolist()
        above_T = np.append(tree.log_probs_T, 0.0)[tree.parents_T]  # parent -1 finds the root's 0
        self._log_probs: list[float] = (tree.log_probs_T - above_T).tolist()
        self._sources = _list(tree.sources_T, len(tree))
        self._confidences = _list(tree.confidences_T, len(tree))
        self._ranks = _list(tree.ranks_T, len(tree))
        self._children: dict[int, list[int]] = {}
        for node, parent in enumerate(self._parents):
            self._children.setdefault(parent, []).append(node)

    def add(self, parent: int, token: int, log_prob: float) -> int:
        """The child of `parent` that holds `token`, new or not."""
        siblings = self._children.get(parent, [])
        node = next((one for one in siblings if self._tokens[one] == token), None)
        rivals = [one for one in siblings if one != node]
        if node is None:
            node = self._append(parent, token, log_prob)
        self._log_probs[node] = max(self._log_probs[node], log_prob)
        self._sources[node] = self._source
        self._step_back(rivals, math.exp(self._log_probs[node]))
        return node

    def finish(self, max_nodes: int) -> DraftTree:
        paths: list[float] = []
        for parent, log_prob in zip(self._parents, self._log_probs, strict=True):
            paths.append(log_prob + (paths[parent] if parent >= 0 else 0.0))
        tree = DraftTree(
            np.array(self._tokens, np.int64),
            np.array(self._parents, np.int32),
            np.array(paths, np.float64),
            np.array(self._sources, np.int8),
            np.array(self._confidences, np.float64),
            np.array(self._ranks, np.int16),
        )
        return tree.best(min(max_nodes, sum(path > -math.inf for path in paths)))

    def _append(self, parent: int, token: int, log_prob: float) -> int:
        self._tokens.append(token)
        self._parents.append(parent)
        self._log_probs.append(log_prob)
        self._sources.append(self._source)
        self._confidences.append(log_prob)
        self._ranks.append(0)
        return len(self._tokens) - 1

    def _step_back(self, rivals: Sequence[int], taken: float) -> None:
        """The least likely of too many leaves the tree, with all that follows it."""
        ranked = sorted(rivals, key=self._log_probs.__getitem__, reverse=True)
        kept = ranked[: self._max_width - 1]
        shares = share_rest(taken, [math.exp(self._log_probs[one]) for one in kept])
        for one, share in zip(kept, shares, strict=True):
            self._log_probs[one] = math.log(share) if share else -math.inf
        for one in ranked[self._max_width - 1 :]:
            self._log_probs[one] = -math.inf


def _list(values_T: NDArray[Any] | None, length: int) -> list[Any]:
    return [0] * length if values_T is None else values_T.tolist()
