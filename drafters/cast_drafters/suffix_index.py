"""Finds where the end of a sequence has occurred before, in time that does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class SuffixIndex:
    """The n-grams of one growing sequence, n from 1 to `max_length`, and what followed them.

    Of each n-gram only the newest `max_occurrences` are sure to be kept.
    """

    def __init__(self, max_length: int, max_occurrences: int) -> None:
        self._max_length = max_length
        self._max_occurrences = max_occurrences
        self._num_indexed = 0
        # n-gram -> rising positions of the tokens that followed it
        self._followers: dict[tuple[int, ...], list[int]] = {}

    def extend(self, token_ids: Sequence[int]) -> None:
        """Catches up with a sequence that has grown; starts anew if it has shrunk."""
        if len(token_ids) < self._num_indexed:
            self._followers.clear()
            self._num_indexed = 0
        for position in range(self._num_indexed, len(token_ids)):
            for ngram in self._suffixes(token_ids, position):
                self._add(ngram, position)
        self._num_indexed = len(token_ids)

    def matches(self, token_ids: Sequence[int]) -> dict[int, int]:
        """Positions that follow an earlier occurrence of the end of `token_ids` -> tokens matched.

        Longest matches first, the newest first among equals; at most `max_occurrences`, except that
        occurrences of one n-gram stay together.
        """
        found: dict[int, int] = {}
        for ngram in self._suffixes(token_ids, len(token_ids)):
            newest = self._followers.get(ngram, [])[: -self._max_occurrences - 1 : -1]
            for position in newest:
                found.setdefault(position, len(ngram))
            if len(found) >= self._max_occurrences:
                break
        return found

    def _suffixes(self, token_ids: Sequence[int], end: int) -> Iterator[tuple[int, ...]]:
        """The n-grams that end before `end`, longest first."""
        window = tuple(token_ids[max(0, end - self._max_length) : end])
        return (window[start:] for start in range(len(window)))

    def _add(self, ngram: tuple[int, ...], position: int) -> None:
        positions = self._followers.setdefault(ngram, [])
        positions.append(position)
        if len(positions) >= 2 * self._max_occurrences:
            del positions[: self._max_occurrences]
