"""Lets go of OpenMP's workers, so that those of another thread need not sleep.

libgomp keeps a team of workers for every thread that has ever computed in parallel. Once all teams
together have more threads than there are processors, none waits awake for its next loop any more,
and to be woken takes longer than most loops of a small model do. So a thread that has computed, and
leaves the next passes to another, lets go of its team.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_HARD: Final = 2  # omp_pause_hard, OpenMP 5.0


def release_workers() -> None:
    """Ends the calling thread's team; a new one comes when it computes again.

    Does nothing where torch has another OpenMP than libgomp.
    """
    for path in _libraries():
        pause = getattr(ctypes.CDLL(path), "omp_pause_resource_all", None)
        if pause is not None:  # older than GCC 9
            pause(_HARD)


def in_passing(compute: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Computes on a thread that other things are usually done on."""
    try:
        return compute(*args, **kwargs)
    finally:
        release_workers()


async def aside(compute: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Computes on a thread of the event loop's, so that the loop goes on."""
    return await asyncio.to_thread(lambda: in_passing(compute, *args, **kwargs))


def _libraries() -> set[str]:
    """Those that are loaded; on Linux only."""
    try:
        with Path("/proc/self/maps").open(encoding="utf-8") as maps:
            return {line.split(maxsplit=5)[-1].strip() for line in maps if "libgomp" in line}
    except OSError:
        return set()
