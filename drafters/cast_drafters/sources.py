"""Guesses that cost no pass of any model: from the text itself and from what was said before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from cast_drafters.ngram_store import NgramStore
from cast_drafters.pool import Prediction
from cast_drafters.suffix_index import SuffixIndex

TAIL: Final = 6  # tokens that any source looks back on

# What one earlier occurrence is worth by the number of tokens it matches, in units of the chance
# that none is right: as in `ngram`, where the figures come from.
_EVIDENCE: Final = (0.0, 0.15, 0.8, 2.0, 4.0, 8.0, 16.0)
_FADING: Final = 0.95
_MAX_OCCURRENCES: Final = 16


class Source(Protocol):
    """Predicts the next token behind `tail`, the last tokens of a sequence and of a draft."""

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None: ...

    def extend(self, request_id: str, token_ids: Sequence[int]) -> None: ...

    def own(self, request_id: str, owner: str) -> None:
        """Says whose sequence it is: for sources that remember ended ones."""

    def release(self, request_id: str) -> None: ...

    def predict(self, request_id: str, tail: Sequence[int], width: int) -> Prediction: ...


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

    def own(self, request_id: str, owner: str) -> None:
        """Nothing to note: a sequence sees no other."""

    def release(self, request_id: str) -> None:
        self._indexes.pop(request_id, None)
        self._texts.pop(request_id, None)

    def predict(self, request_id: str, tail: Sequence[int], width: int) -> Prediction:
        text = self._texts[request_id]
        longest = 0
        evidence: dict[int, float] = {}
        freshness = 1.0
        for position, matched in self._indexes[request_id].matches(tail).items():
            if position < len(text):
                longest = max(longest, matched)
                weight = freshness * _EVIDENCE[min(matched, len(_EVIDENCE) - 1)]
                token = text[position]
                evidence[token] = evidence.get(token, 0.0) + weight
                freshness *= _FADING
        total = 1.0 + sum(evidence.values())
        likeliest = sorted(evidence, key=evidence.__getitem__, reverse=True)[:width]
        return Prediction(longest, [(token, evidence[token] / total) for token in likeliest])


class StoreSource(Source):
    """What usually followed the same few tokens in the target's earlier generations."""

    def __init__(self, store: NgramStore) -> None:
        self._store = store

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        """Nothing to note."""

    def extend(self, request_id: str, token_ids: Sequence[int]) -> None:
        """Nothing to note."""

    def own(self, request_id: str, owner: str) -> None:
        """Nothing to note."""

    def release(self, request_id: str) -> None:
        """Nothing to forget."""

    def predict(
        self,
        request_id: str,  # noqa: ARG002
        tail: Sequence[int],
        width: int,
    ) -> Prediction:
        found = self._store.predict(tail, width)
        longest = max((order for *_, order in found), default=0)
        return Prediction(longest, [(token, share) for token, share, _ in found])
