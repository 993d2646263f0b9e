"""Guesses that cost no pass of any model: from the text itself and from what was said before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

from cast_drafters.growth import Guess
from cast_drafters.ngram_store import NgramStore
from cast_drafters.suffix_index import SuffixIndex

TAIL: Final = 6  # tokens that any source looks back on

# What one earlier occurrence is worth by the number of tokens it matches, in units of the chance
# that none is right: as in `ngram`, where the figures come from.
_EVIDENCE: Final = (0.0, 0.15, 0.8, 2.0, 4.0, 8.0, 16.0)
_FADING: Final = 0.95
_MAX_OCCURRENCES: Final = 16


class Source(Protocol):
    """`predict` gives tokens with probabilities that sum to at most 1; the rest is not knowing."""

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None: ...

    def extend(self, request_id: str, token_ids: Sequence[int]) -> None: ...

    def release(self, request_id: str) -> None: ...

    def predict(
        self, request_id: str, tail: Sequence[int], width: int
    ) -> list[tuple[int, float]]: ...


class TextSource(Source):
    """What followed the same few tokens earlier in the sequence."""

    def __init__(self, max_ngram: int = 4) -> None:
        self._max_ngram = max_ngram
        self._indexes: dict[str, SuffixIndex] = {}
        self._texts: dict[str, Sequence[int]] = {}

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        self._indexes[request_id] = SuffixIndex(self._max_ngram, _MAX_OCCURRENCES)
        self._texts[request_id] = token_ids

    def extend(self, request_id: str, token_ids: Sequence[int]) -> None:
        if request_id not in self._indexes:
            self.begin(request_id, token_ids)
        self._texts[request_id] = token_ids
        self._indexes[request_id].extend(token_ids)

    def release(self, request_id: str) -> None:
        self._indexes.pop(request_id, None)
        self._texts.pop(request_id, None)

    def predict(self, request_id: str, tail: Sequence[int], width: int) -> list[tuple[int, float]]:
        text = self._texts[request_id]
        evidence: dict[int, float] = {}
        freshness = 1.0
        for position, matched in self._indexes[request_id].matches(tail).items():
            if position < len(text):
                weight = freshness * _EVIDENCE[min(matched, len(_EVIDENCE) - 1)]
                token = text[position]
                evidence[token] = evidence.get(token, 0.0) + weight
                freshness *= _FADING
        total = 1.0 + sum(evidence.values())
        likeliest = sorted(evidence, key=evidence.__getitem__, reverse=True)[:width]
        return [(token, evidence[token] / total) for token in likeliest]


class StoreSource(Source):
    """What usually followed the same few tokens in the target's earlier generations."""

    def __init__(self, store: NgramStore) -> None:
        self._store = store

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        """Nothing to note."""

    def extend(self, request_id: str, token_ids: Sequence[int]) -> None:
        """Nothing to note."""

    def release(self, request_id: str) -> None:
        """Nothing to forget."""

    def predict(
        self,
        request_id: str,  # noqa: ARG002
        tail: Sequence[int],
        width: int,
    ) -> list[tuple[int, float]]:
        return [(token, share) for token, share, _ in self._store.predict(tail, width)]


def blend(
    predictions: Sequence[Sequence[tuple[int, float]]], weights: Sequence[float]
) -> list[Guess]:
    """The tokens that any source named. `source` is the number of the one that counted most.

    A linear pool in which a source that knows little says little: a source's weight falls with the
    probability that it left unassigned.
    """
    shares = [
        weight * sum(p for _, p in one) for one, weight in zip(predictions, weights, strict=True)
    ]
    total = sum(shares)
    pooled: dict[int, float] = {}
    largest: dict[int, tuple[float, int]] = {}
    for source, (one, share) in enumerate(zip(predictions, shares, strict=True)):
        for token, p in one:
            part = share / total * p
            pooled[token] = pooled.get(token, 0.0) + part
            largest[token] = max(largest.get(token, (0.0, source)), (part, source))
    return [Guess(token, math.log(p), largest[token][1]) for token, p in pooled.items() if p]
