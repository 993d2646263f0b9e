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

from cast_drafters.base import DraftContext, Drafter, LevelGate, VerifyResult
from cast_drafters.calibration import Calibration, Kind
from cast_drafters.lessons import Proposals
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
    confidence: float
    rank: int


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
        self._proposals = Proposals()
        self.calibration = Calibration()

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        index = SuffixIndex(self._max_ngram, self._max_occurrences)
        index.extend(token_ids)
        self._indexes[request_id] = index

    def propose(
        self,
        contexts: Sequence[DraftContext],
        gate: LevelGate | None = None,  # noqa: ARG002 - guesses cost no pass
    ) -> list[DraftTree]:
        trees = [self._propose(context) for context in contexts]
        self._proposals.note(contexts, trees)
        return trees

    def observe(self, results: Sequence[VerifyResult]) -> None:
        """Learns how far to trust copies; committed tokens are read from the sequence."""
        self._proposals.teach(self.calibration, results)

    def release(self, request_id: str) -> None:
        self._indexes.pop(request_id, None)
        self._proposals.forget(request_id)

    def _propose(self, context: DraftContext) -> DraftTree:
        if min(context.limits.max_nodes, context.limits.max_depth, context.limits.max_width) <= 0:
            return EMPTY_TREE
        if context.request_id not in self._indexes:
            self.begin(context.request_id, context.token_ids)
        index = self._indexes[context.request_id]
        index.extend(context.token_ids)
        matches = index.matches(context.token_ids)
        return self._grow(context, list(matches.items()))

    def _grow(self, context: DraftContext, occurrences: list[_Occurrence]) -> DraftTree:
        """Best first: nodes join by falling probability, so a full tree holds the likeliest."""
        token_ids, limits = context.token_ids, context.limits
        max_cost = min(self._max_cost, -limits.least)
        is_sampled = context.temperature > 0
        nodes: list[_Candidate] = []
        frontier: list[_Candidate] = []
        serials = count()
        node = _Candidate(0.0, next(serials), -1, (), occurrences, 0.0, 0)
        while len(nodes) < limits.max_nodes:
            if len(node.path) < limits.max_depth:
                branches = _branches(token_ids, node, limits.max_width)
                for rank, (token, probability, followed) in enumerate(branches):
                    confidence = math.log(probability)
                    path = (*node.path, token)
                    kind = Kind.of(is_sampled, 0, len(path), rank)
                    cost = node.cost - self.calibration.log_prob(kind, confidence)
                    if cost <= max_cost:
                        child = _Candidate(
                            cost, next(serials), len(nodes) - 1, path, followed, confidence, rank
                        )
                        heappush(frontier, child)
            if not frontier:
                break
            node = heappop(frontier)
            nodes.append(node)
        return DraftTree(
            np.array([node.path[-1] for node in nodes], np.int64),
            np.array([node.parent for node in nodes], np.int32),
            np.array([-node.cost for node in nodes], np.float64),
            np.zeros(len(nodes), np.int8),
            np.array([node.confidence for node in nodes], np.float64),
            np.array([node.rank for node in nodes], np.int16),
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
