"""Corrects a cost model with what the running server sees.

A profile was taken at another time, at another clock rate, with other neighbours on the machine.
How far off it is, is learnt as a factor for each kind of work: passes of the target, levels of the
drafter, and what the host does for drafting and for everything else. A factor follows a change of
the whole machine within some tens of steps; on top of it each range of sizes has one of its own,
which takes its time.
"""

from __future__ import annotations

import math
from typing import Final

from cast_profiler.cost import CostModel

_FAST: Final = 0.1  # of the common factor, a sight
_SLOW: Final = 0.03  # of a range's own
_OUTLIER: Final = 0.5  # log of the largest surprise that counts in full
_BUCKETS: Final = 12  # ranges of sizes, two for each doubling
# The host's work before anybody has seen it: of a step, and of each sequence in it.
_DRAFTING: Final = (5e-4, 3e-4)
_REST: Final = (3e-4, 2e-4)


class CorrectedCost(CostModel):
    """`base` times what has been learnt. Not for several threads."""

    def __init__(self, base: CostModel) -> None:
        self.base = base
        self._verify, self._draft = _Factors(), _Factors()
        self._drafting, self._rest = _HostWork(*_DRAFTING), _HostWork(*_REST)

    def verify_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        return self.base.verify_seconds(rows, keys, sequences) * self._verify.at(rows)

    def draft_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        """One level: a pass of the drafter, and what is made of it."""
        return self.base.draft_seconds(rows, keys, sequences) * self._draft.at(rows)

    def host_seconds(self, sequences: int) -> float:
        """Drafting for so many sequences, beside any level."""
        return self._drafting.seconds(sequences)

    def rest_seconds(self, sequences: int) -> float:
        """What a step of so many sequences takes beside drafting and the target's pass."""
        return self._rest.seconds(sequences)

    def saw_verify(self, rows: int, keys: int, sequences: int, seconds: float) -> None:
        """One pass of the target took so long."""
        self._verify.learn(rows, seconds, self.verify_seconds(rows, keys, sequences))

    def saw_level(self, rows: int, keys: int, sequences: int, seconds: float) -> None:
        """One level of a draft took so long."""
        self._draft.learn(rows, seconds, self.draft_seconds(rows, keys, sequences))

    def saw_host(self, sequences: int, seconds: float) -> None:
        """Drafting for so many sequences took so long, its levels not counted."""
        self._drafting.learn(sequences, seconds)

    def saw_rest(self, sequences: int, seconds: float) -> None:
        """What was left of a step took so long."""
        self._rest.learn(sequences, seconds)

    @property
    def drift(self) -> float:
        """How many times as long as in the profile passes of the target take now."""
        return math.exp(self._verify.common)


class _HostWork:
    def __init__(self, step: float, sequence: float) -> None:
        self._step, self._sequence = step, sequence
        self._factors = _Factors(is_rough=True)

    def seconds(self, sequences: int) -> float:
        if not sequences:
            return 0.0
        return (self._step + self._sequence * sequences) * self._factors.at(sequences)

    def learn(self, sequences: int, seconds: float) -> None:
        self._factors.learn(sequences, seconds, self.seconds(sequences))


class _Factors:
    """`is_rough`: the base is a guess, so that at first each sight counts as much as those before
    it."""

    def __init__(self, is_rough: bool = False) -> None:
        self.common = 0.0
        self._own = [0.0] * (_BUCKETS + 1)
        self._share = 1.0 if is_rough else _FAST

    def at(self, size: int) -> float:
        below, share = _place(size)
        return math.exp(self.common + self._own[below] * (1 - share) + self._own[below + 1] * share)

    def learn(self, size: int, seconds: float, predicted: float) -> None:
        if predicted <= 0:
            return  # work that costs nothing in the base model, whatever its factor
        surprise = math.log(max(seconds, 1e-9) / predicted)
        surprise = min(_OUTLIER, max(-_OUTLIER, surprise))
        below, share = _place(size)
        self.common += self._share * surprise
        self._share = max(_FAST, self._share / (1 + self._share))
        for index, part in ((below, 1 - share), (below + 1, share)):
            self._own[index] += _SLOW * part * surprise


def _place(size: int) -> tuple[int, float]:
    along = min(2 * math.log2(max(1, size)), _BUCKETS - 1e-9)
    return int(along), along - int(along)
