"""Where an output stands in a text that is expected of it, and how far it will go on like that.

The output may leave the text and come back, as an edited file does. Whoever is lost looks for the
end of the output in the text: the longest end wins, and among equally long ones the next place
behind the last one that was trusted. So an edit costs a few tokens, and a text that has nothing to
do with the output costs no more than looking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LONGEST: Final = 16  # tokens of the output that are looked for
_TRUSTED: Final = 3  # tokens in a row that make a place more than a coincidence
_LEAN: Final = 4.0  # outcomes that the rule of succession is worth
_SORTS: Final = 7  # of runs, by doublings: 0, 1, 2 to 3, 4 to 7 …
_AGEING: Final = 0.9  # of what came of late, an outcome


class Follower:
    """Follows one output through `text`, token by token.

    `place`: where in the text the next token is expected; `run`: how many last ones are behind
    each other just before it.
    """

    def __init__(self, text: Sequence[int]) -> None:
        self._text = text
        self._text_N = np.array(text, np.int64)
        self._recent: list[int] = []
        self._trusted = 0  # the place that a long enough run has led to
        self._belief = Belief()
        self._num_read = 0
        self.place = 0
        self.run = 0

    def read(self, token_ids: Sequence[int], num_output: int) -> None:
        """`token_ids` end in `num_output` tokens of output; those that are new are followed."""
        for token in token_ids[len(token_ids) - num_output + self._num_read :]:
            self.follow(token)
        self._num_read = num_output

    def follow(self, token: int) -> None:
        """The output's next token."""
        self._recent = [*self._recent[1 - _LONGEST :], token]
        expected = self.next_token
        if expected is not None:
            self._belief.learn(self.run, token == expected)
        if token == expected:
            self.place += 1
            self.run += 1
        else:
            self._look_around()
        if self.run >= _TRUSTED:
            self._trusted = self.place

    @property
    def next_token(self) -> int | None:
        """What is expected; None behind the end of the text."""
        return self._text[self.place] if self.place < len(self._text) else None

    def guesses(self, length: int, least: float) -> list[tuple[int, float]]:
        """At most `length` next tokens, each with its log-probability given those before; the path
        to each is worth more than `least`, a log-probability too."""
        found: list[tuple[int, float]] = []
        path = 0.0
        for ahead, token in enumerate(self._text[self.place : self.place + length]):
            log_prob = math.log(self._belief.rate(self.run + ahead))
            path += log_prob
            if path <= least:
                break
            found.append((token, log_prob))
        return found

    def _look_around(self) -> None:
        places = self._matches()
        if not len(places):
            self.run = 0
            self.place = min(self.place + 1, len(self._text))  # as if a token was replaced
            return
        ahead = places[places >= self._trusted]
        self.place = int(ahead[0] if len(ahead) else places[-1])

    def _matches(self) -> NDArray[np.int64]:
        """Rising places behind the longest end of the output that the text has; `run` is its
        length."""
        places = np.flatnonzero(self._text_N == self._recent[-1]) + 1
        matched = 1
        for token in self._recent[-2::-1]:
            before = places[places > matched]
            longer = before[self._text_N[before - matched - 1] == token]
            if not len(longer):
                break
            places = longer
            matched += 1
        self.run = matched
        return places


class Belief:
    """How often the next token came as expected, by how many had done so in a row.

    What nobody has seen yet has the rule of succession, (r + 1) / (r + 2) after r successes, as far
    as that rule has held of late: where the text was no help, coincidences are no reason for more.
    """

    def __init__(self) -> None:
        self._seen = [0] * _SORTS
        self._hits = [0] * _SORTS
        self._foreseen = self._came = 1.0

    def learn(self, run: int, is_right: bool) -> None:
        sort = _sort(run)
        self._seen[sort] += 1
        self._hits[sort] += is_right
        self._foreseen += _succession(run) - (1 - _AGEING) * (self._foreseen - 1)
        self._came += is_right - (1 - _AGEING) * (self._came - 1)

    def rate(self, run: int) -> float:
        """Between 0 and 1, neither of them."""
        sort = _sort(run)
        expected = _succession(run) * min(1.0, self._came / self._foreseen)
        return (self._hits[sort] + _LEAN * expected) / (self._seen[sort] + _LEAN)


def _sort(run: int) -> int:
    return min(run.bit_length(), _SORTS - 1)


def _succession(run: int) -> float:
    return (run + 1) / (run + 2)
