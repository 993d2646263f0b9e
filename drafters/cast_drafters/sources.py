"""Guesses that cost no pass of any model: from the text itself and from what was said before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from cast_drafters.ngram_store import NgramStore
from cast_drafters.pool import Prediction
from cast_drafters.suffix_index import SuffixIndex, likeliest

TAIL: Final = 6  # tokens that any source looks back on

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
        matches = self._indexes[request_id].matches(tail)
        found = [(text[place], matched) for place, matched in matches.items() if place < len(text)]
        longest = max((matched for _, matched in found), default=0)
        return Prediction(longest, likeliest(found, width))


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
