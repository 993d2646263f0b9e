"""Works on evaluations, one after another, and keeps in the journal what is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from cast_server.errors import RequestError
from cast_server.evaluators.base import Evaluator
from cast_server.evaluators.jobs.job import Fault, Job, JobFailure, Status
from cast_server.evaluators.jobs.journal import Event, Journal
from cast_server.evaluators.jobs.limits import ServiceLimits
from cast_server.evaluators.jobs.results import results_of
from cast_server.evaluators.jobs.run import Outcome, Place, Run, Snapshot, changed_model
from cast_server.evaluators.jobs.strict_json import NotFiniteError, dumps
from cast_server.evaluators.subject import Subject

_logger = logging.getLogger(__name__)

_MAX_WARNINGS = 100
_TIDY_SECONDS = 1.0
_RETRY_SECONDS = 5.0


class Changes:
    """Tells everybody who waits that something has changed."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """False if nothing has changed for so long."""
        try:
            await asyncio.wait_for(self._next.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Worker:
    """All members belong to the event loop's thread. `now` tells Unix seconds."""

    def __init__(
        self,
        journal: Journal,
        subjects: Mapping[str, Subject],
        evaluators: Mapping[str, Evaluator[Any]],
        limits: ServiceLimits,
        now: Callable[[], float],
    ) -> None:
        self.changes = Changes()
        self._journal, self._now, self._limits = journal, now, limits
        self._subjects, self._evaluators = subjects, evaluators
        self._job: Job | None = None
        self._run: Run | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._next_event = 1
        self._num_warnings = 0

    async def work(self) -> None:
        """Until it is cancelled; what is under way then goes on when there is a worker again."""
        while True:
            self._wake.clear()
            try:
                if (job := next(iter(self._journal.unfinished()), None)) is None:
                    await self._wake.wait()
                else:
                    await self._take(job)
            except Exception:
                _logger.exception("Evaluations cannot go on; trying again")
                await asyncio.sleep(_RETRY_SECONDS)

    async def tidy(self) -> None:
        """Until it is cancelled: ends what has waited too long, deletes what is no longer kept."""
        while True:
            try:
                self._tidy()
            except Exception:
                _logger.exception("Evaluations cannot be tidied up; trying again")
            await asyncio.sleep(_TIDY_SECONDS)

    def wake(self) -> None:
        """There is a new evaluation."""
        self._wake.set()

    def current(self, job: Job) -> Job:
        """With its progress as it is at this moment."""
        if job.status.is_final or self._run is None:
            return job
        if self._job is None or self._job.id != job.id:
            return job
        return replace(self._job, progress=self._run.progress, counts=self._run.counts)

    def snapshot(self, job: Job) -> Snapshot:
        """What there is of an evaluation that was not completed.

        Raises `JobFailure` if the evaluator is another one by now.
        """
        if self._run is not None and self._job is not None and self._job.id == job.id:
            return self._run.snapshot()
        return self._restored(job).snapshot()

    def cancel(self, job: Job) -> Job:
        """Of an evaluation that has not ended: stops it, at once if it waits."""
        job = replace(self.current(job), cancel_requested=True)
        if job.status is Status.QUEUED:
            return self._finish(job, Status.CANCELED)
        job = replace(job, status=Status.CANCELING)
        self._journal.update(job)
        if self._job is not None and self._job.id == job.id and self._task is not None:
            self._job = job
            self._task.cancel()
        self.changes.tell()
        return job

    async def _take(self, job: Job) -> None:
        if job.cancel_requested:
            self._finish(job, Status.CANCELED)
            return
        started = job.started_at or self._now()
        self._job = replace(job, status=Status.IN_PROGRESS, started_at=started)
        self._journal.update(self._job)
        self._task = asyncio.create_task(self._carry_out())
        try:
            await asyncio.wait({self._task})
        finally:
            self._task.cancel()
            results = await asyncio.gather(self._task, return_exceptions=True)
            self._job = self._run = self._task = None
        if isinstance(results[0], Exception):
            raise results[0]

    async def _carry_out(self) -> None:
        assert self._job is not None
        deadline = asyncio.timeout(max(0.0, self._job.expires_at - self._now()))
        status, fault = Status.FAILED, None
        try:
            async with deadline:
                await self._complete()
                return
        except asyncio.CancelledError:
            if not self._job.cancel_requested:
                raise
            status = Status.CANCELED
        except Exception as error:  # noqa: BLE001 - it goes into the journal, and the worker goes on
            if self._job.cancel_requested:
                status = Status.CANCELED
            elif deadline.expired():
                status, fault = Status.EXPIRED, _expired("The evaluation did not end in time.")
            else:
                fault = _fault(error, self._job)
        self._finish(replace(self.current(self._job), error=fault), status)

    async def _complete(self) -> None:
        """From wherever the journal says it is to the end."""
        assert self._job is not None
        subjects = self._subjects_of(self._job)
        self._run = run = self._restored(self._job)
        self._next_event = self._journal.last_event(self._job.id) + 1
        self._num_warnings = len(self._journal.warnings(self._job.id))
        if run.progress.done:
            self._note_resumption(run.progress.done, run.progress.total)
        self.changes.tell()
        await run.execute(subjects, self._limits.concurrency, self._keep)
        self.changes.tell()
        items, findings, counts = await asyncio.to_thread(_written, run.snapshot())
        job = replace(self.current(self._job), counts=counts)
        self._finish(job, Status.COMPLETED, items, findings)

    def _subjects_of(self, job: Job) -> list[Subject]:
        """Raises `JobFailure` if they are not those that the evaluation began with."""
        for name, fingerprint in zip(job.models, job.fingerprints, strict=True):
            subject = self._subjects.get(name)
            if subject is None or dict(subject.fingerprint) != fingerprint:
                raise changed_model(name)
        return [self._subjects[name] for name in job.models]

    def _restored(self, job: Job) -> Run:
        """The run as far as it has come. Raises `JobFailure` if this server cannot tell."""
        evaluator = self._evaluators.get(job.evaluator)
        if evaluator is None or evaluator.version != job.version:
            raise JobFailure(
                "evaluator_changed",
                f"Version {job.version} of the evaluator `{job.evaluator}` is gone.",
            )
        try:
            params = evaluator.params_type.model_validate(job.params)
            order, units = self._journal.order(job), self._journal.units(job)
            return Run(order, evaluator, params, units, job.progress.tokens)
        except (ValidationError, RequestError) as error:
            raise JobFailure("evaluator_changed", f"It can no longer be run: {error}") from error

    def _keep(self, place: Place, outcome: Outcome, item: dict[str, Any] | None) -> None:
        assert self._job is not None
        events = []
        if outcome.fault is not None and not outcome.is_undefined:
            index, model = place.unit.index, self._job.models[place.side]
            message = f"Item {index} of {model}: {outcome.fault.message}"
            events += self._warning({"code": "item_failed", "index": index, "message": message})
        if item is not None:
            events.append(self._event("item", item))
        self._job = self.current(self._job)
        self._journal.record(self._job, place, outcome, events)
        self.changes.tell()

    def _note_resumption(self, done: int, total: int) -> None:
        assert self._job is not None
        message = f"The server was restarted; {done} of {total} units were done."
        events = self._warning({"code": "resumed", "message": message})
        self._journal.append(self._job, events)

    def _warning(self, data: dict[str, Any]) -> list[Event]:
        self._num_warnings += 1
        return [self._event("warning", data)] if self._num_warnings <= _MAX_WARNINGS else []

    def _event(self, kind: str, data: dict[str, Any]) -> Event:
        self._next_event += 1
        return Event(self._next_event - 1, kind, dumps(data))

    def _finish(
        self,
        job: Job,
        status: Status,
        items: list[tuple[int, str]] | None = None,
        findings: str | None = None,
    ) -> Job:
        progress = replace(job.progress, eta_seconds=None)
        job = replace(job, status=status, finished_at=self._now(), progress=progress)
        number = self._journal.last_event(job.id) + 1
        done = Event(number, "done", dumps({"status": status}))
        self._journal.finish(job, [done], items or [], findings)
        self.changes.tell()
        return job

    def _tidy(self) -> None:
        for job in self._journal.unfinished():
            if job.status is Status.QUEUED and job.expires_at <= self._now():
                fault = _expired("The evaluation was not begun in time.")
                self._finish(replace(job, error=fault), Status.EXPIRED)
        oldest = self._now() - self._limits.keep_seconds
        for job_id in self._journal.superfluous(oldest, self._limits.keep_bytes):
            self._journal.delete(job_id)


def _written(snapshot: Snapshot) -> tuple[list[tuple[int, str]], str, Any]:
    results = results_of(snapshot)
    items = [(item.position, dumps(item)) for item in results.items]
    return items, dumps(results.findings), results.findings.counts


def _fault(error: Exception, job: Job) -> Fault:
    if isinstance(error, JobFailure):
        return error.fault
    if isinstance(error, NotFiniteError):
        return Fault("not_finite", f"The result is no JSON: {error}.")
    if isinstance(error, RequestError):
        return Fault(error.code or error.type, error.message)
    _logger.error("Unforeseen failure of evaluation %s", job.id, exc_info=error)
    return Fault("internal_error", f"The server failed on evaluation {job.id}. Sorry.")


def _expired(message: str) -> Fault:
    return Fault("max_seconds_exceeded", message)
