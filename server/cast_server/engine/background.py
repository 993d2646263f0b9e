"""Work that may wait: requests that nobody looks at, and jobs that run between steps."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from cast_server.engine.scheduler import Scheduled, Scheduler
from cast_server.engine.share import Share

BACKGROUND_ROWS: Final = 32  # of the target in one slice of background work


class Background:
    """Sequences with a scheduler of their own, and jobs: generators that do a little and yield.

    A job is done when it ends; whatever it raises is its own to catch.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.share = Share()
        self._jobs: dict[str, Generator[None, None, None]] = {}
        self._was_job = False

    @property
    def has_work(self) -> bool:
        return bool(self._jobs) or self.scheduler.has_work

    def add(self, job_id: str, job: Generator[None, None, None]) -> None:
        self._jobs[job_id] = job

    def drop(self, job_id: str) -> None:
        """Closes a job, so that it gives back what it holds. Unknown ids are fine."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            job.close()

    def advance(self) -> list[Scheduled]:
        """Does a slice of the oldest job, or returns the sequences' next step. They take turns."""
        self._was_job = bool(self._jobs) and not (self._was_job and self.scheduler.has_work)
        if not self._was_job:
            return self.scheduler.schedule()
        job_id = next(iter(self._jobs))
        if next(self._jobs[job_id], self) is self:
            self._jobs.pop(job_id, None)
        return []
