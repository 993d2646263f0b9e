"""How much of the engine's time background work may have."""

from __future__ import annotations

from typing import Final

_LONGEST_CREDIT: Final = 0.25  # seconds; what was saved up long ago must not come at once
_LEAST: Final = 0.005  # seconds; what finds nothing to do must not be asked again and again


class Share:
    """Background work has at most `most` of the time while other work is there, else all of it.

    Seconds of other work earn credit, seconds of background work beside it spend it.
    """

    def __init__(self, most: float = 0.1) -> None:
        self._rate = most / (1 - most)
        self._credit = 0.0

    @property
    def is_due(self) -> bool:
        return self._credit > 0

    def earn(self, seconds: float) -> None:
        self._credit = min(_LONGEST_CREDIT, self._credit + self._rate * seconds)

    def spend(self, seconds: float) -> None:
        self._credit -= max(_LEAST, seconds)
