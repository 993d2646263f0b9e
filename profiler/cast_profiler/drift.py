"""Corrects a cost model with what the running server sees.

A profile was taken at another time, at another clock rate, with other neighbours on the machine.
How far a pass is off is learnt as a factor: one for all passes, which follows a change within some
tens of steps, and on top of it one for each range of rows, which takes its time.
"""

from __future__ import annotations

import math
from typing import Final

from cast_profiler.cost import CostModel
from cast_profiler.regression import OnlineRegression

_FAST: Final = 0.1  # of the common factor, a pass
_SLOW: Final = 0.03  # of a range's own
_OUTLIER: Final = 0.5  # log of the largest surprise that counts in full
_LEAST_FACTOR: Final = 0.7  # of a pass of the drafter: they never become free
_BUCKETS: Final = 12  # ranges of rows, two for each doubling


class CorrectedCost(CostModel):
    """`base` times what has been learnt. Not for several threads.

    Drafting in a step takes a time for each sequence, and its passes times a factor.
    """

    def __init__(self, base: CostModel) -> None:
        self.base = base
        self._verify = _Factors()
        # Milliseconds of each sequence that is drafted for, and the factor of the passes. A step
        # tells little about which of the two it was, so each stays near its start.
        self._draft = OnlineRegression(start=(0.3, 1.1), scale=(10.0, 3.0))

    def verify_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        return self.base.verify_seconds(rows, keys, sequences) * self._verify.at(rows)

    def draft_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        """One pass of the drafter."""
        factor: float = max(_LEAST_FACTOR, float(self._draft.coefficients[1]))
        return factor * self.base.draft_seconds(rows, keys, sequences)

    def host_seconds(self, sequences: int) -> float:
        """Drafting for so many sequences, beside any pass."""
        return 1e-3 * self._draft.predict((sequences, 0.0))

    def saw_verify(self, rows: int, keys: int, sequences: int, seconds: float) -> None:
        """One pass of the target took so long."""
        self._verify.learn(rows, seconds / self.verify_seconds(rows, keys, sequences))

    def saw_drafts(self, sequences: int, base_seconds: float, seconds: float) -> None:
        """Drafting for so many sequences, with passes of `base_seconds` in all by the base model,
        took `seconds`."""
        features = (sequences, 1e3 * base_seconds)
        # What disturbs a step for long is no lesson about drafting.
        most = 3.0 * self._draft.predict(features) + 1.0
        self._draft.learn(features, min(1e3 * seconds, most))

    @property
    def drift(self) -> float:
        """How many times as long as in the profile passes of the target take now."""
        return math.exp(self._verify.common)


class _Factors:
    def __init__(self) -> None:
        self.common = 0.0
        self._own = [0.0] * (_BUCKETS + 1)

    def at(self, rows: int) -> float:
        below, share = _place(rows)
        return math.exp(self.common + self._own[below] * (1 - share) + self._own[below + 1] * share)

    def learn(self, rows: int, ratio: float) -> None:
        surprise = min(_OUTLIER, max(-_OUTLIER, math.log(max(ratio, 1e-6))))
        below, share = _place(rows)
        self.common += _FAST * surprise
        for index, part in ((below, 1 - share), (below + 1, share)):
            self._own[index] += _SLOW * part * surprise


def _place(rows: int) -> tuple[int, float]:
    along = min(2 * math.log2(max(1, rows)), _BUCKETS - 1e-9)
    return int(along), along - int(along)
