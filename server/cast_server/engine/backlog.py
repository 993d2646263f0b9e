"""Bookkeeping of a step that can wait until the device is busy with the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Backlog:
    """Work of the engine's thread, in order; done at once where nothing overlaps."""

    def __init__(self, overlaps: bool) -> None:
        self._overlaps = overlaps
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Callable[[], None]) -> None:
        if self._overlaps:
            self._waiting.append(work)
        else:
            work()

    def work_off(self) -> None:
        while self._waiting:
            self._waiting.popleft()()  # gone, whatever comes of it
