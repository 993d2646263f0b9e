"""How many tokens a second have been generated lately."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

_WINDOW: Final = 10.0  # seconds that count as lately
_MOST: Final = 4096  # steps remembered


class Pace:
    """One thread adds, any may ask. `clock` tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: deque[tuple[float, int]] = deque(maxlen=_MOST)

    def add(self, num_tokens: int) -> None:
        """A step has just ended with so many tokens."""
        self._steps.append((self._clock(), num_tokens))

    @property
    def tokens_per_second(self) -> float:
        """Over the last ten seconds, idle ones too, or the shorter time that is remembered."""
        now = self._clock()
        steps = list(self._steps)  # a copy: the engine goes on
        tokens = sum(count for when, count in steps if now - when < _WINDOW)
        is_full = len(steps) == _MOST
        span = min(_WINDOW, now - steps[0][0]) if is_full else _WINDOW
        return tokens / max(span, 1e-3)
