"""News of an evaluation as server-sent events: progress, item, warning and done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict

from cast_server.api.evaluation_bodies import evaluation
from cast_server.api.lifecycle import Lifecycle, Phase
from cast_server.errors import UnknownEvaluationError
from cast_server.evaluators.jobs.job import Job, Progress
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.evaluators.jobs.strict_json import dumps

_HEARTBEAT_SECONDS = 15.0
_PROGRESS_SECONDS = 0.25


async def evaluation_events(
    evaluations: Evaluations, job_id: str, after: int, lifecycle: Lifecycle
) -> AsyncGenerator[bytes, None]:
    """All numbered events behind `after` and those to come, until the evaluation has ended.

    Progress has no number: whoever comes back is told how it stands now. When the server stops, the
    stream ends without `done`, for the client to come back to the next one.
    """
    told, told_at = None, 0.0
    while True:
        await asyncio.sleep(0)  # what fits into the socket's buffer is sent without ever waiting
        try:
            job = evaluations.find(job_id)
        except UnknownEvaluationError:  # deleted in the meantime
            return
        for event in evaluations.events(job_id, after):
            after = event.number
            if event.kind == "done":
                yield _event("progress", dumps(asdict(job.progress)))
                yield _event("done", dumps(_final(evaluations, job)), after)
                return
            yield _event(event.kind, event.data, after)
        if _is_news(job, told, told_at):
            told, told_at = job.progress, time.monotonic()
            yield _event("progress", dumps(asdict(told)))
        if evaluations.events(job_id, after):
            continue
        if lifecycle.phase is Phase.DRAINING:
            yield b": the server stops; come back with Last-Event-ID\n\n"
            return
        if not await evaluations.changes.wait(_HEARTBEAT_SECONDS):
            yield b": still there\n\n"


def _is_news(job: Job, told: Progress | None, told_at: float) -> bool:
    if told is None or job.progress.phase != told.phase:
        return True
    return job.progress.done > told.done and time.monotonic() - told_at > _PROGRESS_SECONDS


def _final(evaluations: Evaluations, job: Job) -> object:
    return evaluation(job, evaluations.queue_position(job))


def _event(kind: str, data: str, number: int | None = None) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {data}\n\n".encode()
