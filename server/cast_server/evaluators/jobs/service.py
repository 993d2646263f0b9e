"""Evaluations as the HTTP layer sees them: ordered, asked after, stopped and deleted."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

from cast_server.errors import (
    CapabilityError,
    ConflictError,
    EngineFailureError,
    QueueFullError,
    RequestError,
    TooLargeError,
    UnknownEvaluationError,
    UnknownEvaluatorError,
    UnknownModelError,
)
from cast_server.evaluators.base import Evaluator, Params
from cast_server.evaluators.jobs.job import Job, JobFailure, Order, Status
from cast_server.evaluators.jobs.journal import Event, Journal
from cast_server.evaluators.jobs.limits import JobLimits, ServiceLimits
from cast_server.evaluators.jobs.results import Results, items_of, results_of
from cast_server.evaluators.jobs.run import Run
from cast_server.evaluators.jobs.strict_json import dumps
from cast_server.evaluators.jobs.worker import Changes, Worker
from cast_server.evaluators.subject import Subject

_MODEL_FIELDS = ("model", "baseline_model")


class Evaluations:
    """Everything is called from the event loop's thread, while `running` is entered.

    subjects: what may be evaluated, by the name that requests use. now: Unix seconds.
    """

    def __init__(
        self,
        journal: Journal,
        subjects: Mapping[str, Subject],
        evaluators: Mapping[str, Evaluator[Any]],
        limits: ServiceLimits | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.evaluators = evaluators
        self.limits = limits or ServiceLimits()
        self._journal, self._subjects, self._now = journal, subjects, now
        self._worker = Worker(journal, subjects, evaluators, self.limits, now)

    @property
    def changes(self) -> Changes:
        """Told whenever some evaluation has news."""
        return self._worker.changes

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works on what is queued. What is under way at the end goes on at the next start."""
        tasks = [asyncio.create_task(self._worker.work()), asyncio.create_task(self._worker.tidy())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.close()

    def close(self) -> None:
        """Gives the journal up, for another server to go on with."""
        self._journal.close()

    def evaluator(self, evaluator_id: str) -> Evaluator[Any]:
        """Raises `UnknownEvaluatorError`."""
        if evaluator_id not in self.evaluators:
            raise UnknownEvaluatorError(
                f"The evaluator `{evaluator_id}` does not exist.", "evaluator"
            )
        return self.evaluators[evaluator_id]

    def order(
        self,
        evaluator_id: str,
        models: Sequence[str],
        params: Params,
        inputs: Sequence[str],
        limits: JobLimits | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Order:
        """`models`: the model, and the baseline if there is one. Raises the `RequestError` of what
        cannot be done."""
        evaluator = self.evaluator(evaluator_id)
        subjects = self._named(models)
        for subject, param in zip(subjects, _MODEL_FIELDS, strict=False):
            if missing := evaluator.requires(params) - subject.capabilities:
                names = ", ".join(sorted(missing))
                raise CapabilityError(f"The model `{subject.name}` lacks: {names}.", param)
        self._check_size(evaluator, params, inputs)
        return Order(
            evaluator=evaluator_id,
            version=evaluator.version,
            models=tuple(models),
            fingerprints=tuple(dict(subject.fingerprint) for subject in subjects),
            params=params.model_dump(mode="json"),
            inputs=tuple(inputs),
            limits=limits or JobLimits(),
            metadata=metadata or {},
        )

    def submit(self, order: Order, key: str | None = None) -> Job:
        """A new evaluation, or the one that this order has made before under the same key.

        Raises `ConflictError` if that was another order, and `QueueFullError`.
        """
        digest = hashlib.sha256(dumps(_identity(order)).encode()).hexdigest()
        if key is not None and (known := self._journal.find_key(key)) is not None:
            return self._replayed(*known, digest)
        waiting = sum(job.status is Status.QUEUED for job in self._journal.unfinished())
        if waiting >= self.limits.queue_length:
            raise QueueFullError(f"{waiting} evaluations are waiting already.")
        job = _new_job(order, self._now())
        if not self._journal.add(job, order.inputs, digest, key):
            raise AssertionError("nobody else writes to the journal")
        self._worker.wake()
        return job

    async def run_now(self, order: Order) -> Results:
        """Answers at once. Raises `TooLargeError` with the code `use_job` for what takes longer."""
        evaluator = self.evaluators[order.evaluator]
        params = evaluator.params_type.model_validate(order.params)
        subjects = self._named(order.models)
        run = self._small_run(order, evaluator, params)
        await asyncio.to_thread(self._check_tokens, subjects, order.inputs)
        try:
            async with asyncio.timeout(self.limits.sync_seconds):
                await run.execute(subjects, self.limits.concurrency, lambda *_: None)
                return await asyncio.to_thread(results_of, run.snapshot())
        except TimeoutError:
            raise _too_much(f"more than {self.limits.sync_seconds:g} seconds", None) from None
        except JobFailure as failure:
            if failure.fault.code == "max_tokens_exceeded":
                raise _too_much(f"more than {self.limits.sync_tokens} tokens", None) from None
            raise EngineFailureError(failure.fault.message, code=failure.fault.code) from failure

    def find(self, job_id: str) -> Job:
        """As it is now. Raises `UnknownEvaluationError`."""
        job = self._journal.find(job_id)
        if job is None:
            raise UnknownEvaluationError(f"The evaluation `{job_id[:80]}` does not exist.")
        return self._worker.current(job)

    def queue_position(self, job: Job) -> int | None:
        """From 1, of those that wait."""
        if job.status is not Status.QUEUED:
            return None
        queued = [one.id for one in self._journal.unfinished() if one.status is Status.QUEUED]
        return queued.index(job.id) + 1

    def unfinished(self) -> dict[str, int]:
        """How many have not ended, by status."""
        jobs = [self._worker.current(job) for job in self._journal.unfinished()]
        return {
            str(status): sum(job.status is status for job in jobs)
            for status in (Status.QUEUED, Status.IN_PROGRESS, Status.CANCELING)
        }

    def page(
        self, limit: int, after: str | None, status: str | None, evaluator: str | None
    ) -> list[Job]:
        """From the newest to the oldest, behind the one called `after`."""
        if after is not None:
            self.find(after)
        jobs = self._journal.page(limit, after, status, evaluator)
        return [self._worker.current(job) for job in jobs]

    def cancel(self, job_id: str) -> Job:
        """Stops an evaluation, if it has not ended. It may take about a second."""
        job = self.find(job_id)
        return job if job.status.is_final or job.cancel_requested else self._worker.cancel(job)

    def delete(self, job_id: str) -> None:
        """Raises `ConflictError` for an evaluation that has not ended."""
        if not self.find(job_id).status.is_final:
            raise ConflictError(
                f"The evaluation `{job_id}` has not ended: cancel it first.", code="still_running"
            )
        self._journal.delete(job_id)

    async def findings(self, job: Job) -> dict[str, Any]:
        """Summaries and comparison: of what there is, if the evaluation has not been completed."""
        if (findings := self._journal.findings(job)) is not None:
            return findings
        if job.status is Status.QUEUED:
            raise ConflictError("The evaluation has not begun.", code="not_finished")
        snapshot = self._snapshot(job)
        results = await asyncio.to_thread(results_of, snapshot)
        return results.findings.model_dump(serialize_as_any=True)

    async def items(self, job: Job, after: int, limit: int) -> list[tuple[int, str]]:
        """Positions and items, as JSON, behind the position `after`."""
        if job.status is Status.COMPLETED:
            return self._journal.items(job, after, limit)
        if job.status is Status.QUEUED or job.started_at is None:
            return []
        items = await asyncio.to_thread(items_of, self._snapshot(job))
        behind = [item for item in items if item.position > after]
        return [(item.position, dumps(item)) for item in behind[:limit]]

    def warnings(self, job: Job) -> list[dict[str, Any]]:
        """What was odd about an evaluation."""
        return self._journal.warnings(job.id)

    def events(self, job_id: str, after: int) -> list[Event]:
        """News behind the one with the number `after`; not all of it at once."""
        return self._journal.events(job_id, after)

    def _snapshot(self, job: Job) -> Any:
        try:
            return self._worker.snapshot(job)
        except JobFailure as failure:
            raise ConflictError(failure.fault.message, code=failure.fault.code) from failure

    def _named(self, models: Sequence[str]) -> list[Subject]:
        for name, param in zip(models, _MODEL_FIELDS, strict=False):
            if name not in self._subjects:
                raise UnknownModelError(f"The model `{name}` does not exist.", param)
        if len(set(models)) < len(models):
            raise RequestError("baseline_model must be another one than model.", "baseline_model")
        return [self._subjects[name] for name in models]

    def _check_size(self, evaluator: Evaluator[Any], params: Params, inputs: Sequence[str]) -> None:
        num_items = len({unit.index for unit in evaluator.plan(params, inputs)})
        if max(num_items, len(inputs)) > self.limits.max_items:
            raise TooLargeError(
                f"An evaluation may have {self.limits.max_items} items, got "
                f"{max(num_items, len(inputs))}.",
                "input",
            )
        if not num_items:
            raise RequestError("There is nothing to evaluate: input is empty.", "input")

    def _small_run(self, order: Order, evaluator: Evaluator[Any], params: Params) -> Run:
        limits = JobLimits(max_tokens=self.limits.sync_tokens)
        run = Run(replace(order, limits=limits), evaluator, params)
        num_items = max(run.counts.total // len(order.models), len(order.inputs))
        if num_items > self.limits.sync_items:
            raise _too_much(
                f"{num_items} items; {self.limits.sync_items} are answered at once", "input"
            )
        return run

    def _check_tokens(self, subjects: Sequence[Subject], inputs: Sequence[str]) -> None:
        for subject in subjects:
            tokens = sum(len(subject.tokenize(text)) for text in inputs)
            if tokens > self.limits.sync_tokens:
                raise _too_much(
                    f"{tokens} tokens; {self.limits.sync_tokens} are answered at once", "input"
                )

    def _replayed(self, job: Job, known_digest: str, digest: str) -> Job:
        if digest != known_digest:
            raise ConflictError(
                f"The idempotency key belongs to {job.id}, which was asked for in other words.",
                code="idempotency_mismatch",
            )
        return self._worker.current(job)


def _identity(order: Order) -> dict[str, Any]:
    """What makes two orders the same; a model that was swapped in between does not."""
    named = asdict(order) | {"fingerprints": None, "version": None}
    return dict(sorted(named.items()))


def _new_job(order: Order, now: float) -> Job:
    return Job(
        id=f"eval_{uuid.uuid4().hex}",
        status=Status.QUEUED,
        evaluator=order.evaluator,
        version=order.version,
        models=order.models,
        fingerprints=order.fingerprints,
        params=order.params,
        limits=order.limits,
        metadata=order.metadata,
        created_at=now,
    )


def _too_much(what: str, param: str | None) -> TooLargeError:
    return TooLargeError(
        f"This takes {what}: create an evaluation with POST /v1/evaluations instead.",
        param,
        "use_job",
    )
