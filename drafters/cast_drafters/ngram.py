"""Prompt lookup as a tree: what followed the last few tokens wherever they occurred before.

Prompt lookup (Saxena, 2023) copies what followed one earlier occurrence. Here every occurrence is
followed, and all continuations are merged into one tree with a probability on each branch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

import numpy as np

from cast_drafters.base import DraftContext, Drafter, DraftLimits, VerifyResult
from cast_drafters.suffix_index import SuffixIndex, likeliest
from cast_drafters.tree import EMPTY_TREE, DraftTree

_Occurrence = tuple[int, int]  # position of the next token to copy, tokens matched before it


class _Candidate(NamedTuple):
    """A node that may join the tree. Heap order: the likeliest first, then the first found."""

    cost: float  # minus the log-probability of the path
    serial: int
    parent: int
    path: tuple[int, ...]
    occurrences: list[_Occurrence]


class NgramDrafter(Drafter):
    """Copies from the sequence itself; needs no weights.

    Matches at most `max_ngram` tokens before the first drafted one and follows about
    `max_occurrences` of them. Paths less likely than `min_probability` are not offered.
    """

    name = "ngram"

    def __init__(
        self, max_ngram: int = 4, max_occurrences: int = 64, min_probability: float = 0.02
    ) -> None:
        if min(max_ngram, max_occurrences) < 1 or not 0 < min_probability <= 1:
            raise ValueError(
                "max_ngram and max_occurrences must be 1 or more and min_probability between 0 "
                f"and 1, got {max_ngram}, {max_occurrences} and {min_probability}."
            )
        self._max_ngram = max_ngram
        self._max_occurrences = max_occurrences
        self._max_cost = -math.log(min_probability)
        self._indexes: dict[str, SuffixIndex] = {}

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        index = SuffixIndex(self._max_ngram, self._max_occurrences)
        index.extend(token_ids)
        self._indexes[request_id] = index

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        return [self._propose(context) for context in contexts]

    def observe(self, results: Sequence[VerifyResult]) -> None:
        """Nothing to do: committed tokens are read from the sequence."""

    def release(self, request_id: str) -> None:
        self._indexes.pop(request_id, None)

    def _propose(self, context: DraftContext) -> DraftTree:
        if min(context.limits.max_nodes, context.limits.max_depth, context.limits.max_width) <= 0:
            return EMPTY_TREE
        if context.request_id not in self._indexes:
            self.begin(context.request_id, context.token_ids)
        index = self._indexes[context.request_id]
        index.extend(context.token_ids)
        matches = index.matches(context.token_ids)
        return self._grow(context.token_ids, list(matches.items()), context.limits)

    def _grow(
        self, token_ids: Sequence[int], occurrences: list[_Occurrence], limits: DraftLimits
    ) -> DraftTree:
        """Best first: nodes join by falling probability, so a full tree holds the likeliest."""
        nodes: list[_Candidate] = []
        frontier: list[_Candidate] = []
        serials = count()
        node = _Candidate(0.0, next(serials), -1, (), occurrences)
        while len(nodes) < limits.max_nodes:
            if len(node.path) < limits.max_depth:
                for token, probability, followed in _branches(token_ids, node, limits.max_width):
                    cost = node.cost - math.log(probability)
                    if cost > self._max_cost:
                        break  # its siblings to come are no likelier
                    path = (*node.path, token)
                    child = _Candidate(cost, next(serials), len(nodes) - 1, path, followed)
                    heappush(frontier, child)
            if not frontier:
                break
            node = heappop(frontier)
            nodes.append(node)
        return DraftTree(
            np.array([node.path[-1] for node in nodes], np.int64),
            np.array([node.parent for node in nodes], np.int32),
            np.array([-node.cost for node in nodes], np.float64),
        )


def _branches(
    token_ids: Sequence[int], node: _Candidate, max_width: int
) -> list[tuple[int, float, list[_Occurrence]]]:
    """The likeliest next tokens after a node, each with its probability and its occurrences."""
    end = len(token_ids)
    found: list[tuple[int, int]] = []
    followed: dict[int, list[_Occurrence]] = {}
    for position, matched in node.occurrences:
        # An occurrence that overlaps the end goes on into the draft: a loop repeats itself.
        token = token_ids[position] if position < end else node.path[position - end]
        found.append((token, matched))
        followed.setdefault(token, []).append((position + 1, matched + 1))
    return [(token, share, followed[token]) for token, share in likeliest(found, max_width)]
