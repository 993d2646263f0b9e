"""Work that may wait: requests that nobody looks at, and jobs that run between steps.

A call is a job that somebody waits for.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from cast_server.engine.scheduler import Scheduled, Scheduler
from cast_server.engine.share import Share

BACKGROUND_ROWS: Final = 32  # of the target in one slice of background work
_CALLS_SHARE: Final = 0.5  # of the time, while a call is there


class Background:
    """Sequences with a scheduler of their own, and jobs: generators that do a little and yield.

    A job is done when it ends; whatever it raises is its own to catch.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._share, self._calls_share = Share(), Share(_CALLS_SHARE)
        self._jobs: dict[str, Generator[None, None, None]] = {}
        self._calls: dict[str, Generator[None, None, None]] = {}
        self._was_call = self._was_job = False

    @property
    def has_work(self) -> bool:
        return bool(self._calls) or self._has_rest

    @property
    def share(self) -> Share:
        return self._calls_share if self._calls else self._share

    @property
    def _has_rest(self) -> bool:
        return bool(self._jobs) or self.scheduler.has_work

    def add(self, job_id: str, job: Generator[None, None, None], *, is_call: bool = False) -> None:
        (self._calls if is_call else self._jobs)[job_id] = job

    def drop(self, job_id: str) -> None:
        """Closes a job, so that it gives back what it holds. Unknown ids are fine."""
        for jobs in (self._calls, self._jobs):
            job = jobs.pop(job_id, None)
            if job is not None:
                job.close()

    def advance(self) -> list[Scheduled]:
        """Does a slice of the oldest call or job, or returns the sequences' next step. They take
        turns, as each may hold what another waits for; every other turn is for calls."""
        self._was_call = bool(self._calls) and not (self._was_call and self._has_rest)
        if self._was_call:
            _do_slice(self._calls)
            return []
        self._was_job = bool(self._jobs) and not (self._was_job and self.scheduler.has_work)
        if not self._was_job:
            return self.scheduler.schedule()
        _do_slice(self._jobs)
        return []


def _do_slice(jobs: dict[str, Generator[None, None, None]]) -> None:
    job_id, job = next(iter(jobs.items()))
    if next(job, jobs) is jobs:
        jobs.pop(job_id, None)
