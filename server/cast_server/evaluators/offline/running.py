"""An evaluation in this process, by the worker and the journal of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from cast_server.build import build_engine
from cast_server.config import EngineConfig
from cast_server.engine.async_engine import AsyncEngine
from cast_server.errors import ConfigError, ConflictError
from cast_server.evaluators.base import Params
from cast_server.evaluators.jobs.job import Job
from cast_server.evaluators.jobs.journal import Journal
from cast_server.evaluators.jobs.limits import MAX_JOB_SECONDS, JobLimits, ServiceLimits
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.evaluators.registry import EVALUATORS
from cast_server.evaluators.subjects.building import served_subject
from cast_server.model_files import resolve_model

_KEY: Final = "cast-eval"  # one evaluation a directory
_PAGE: Final = 1000
_FOREVER: Final = 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Done:
    """What came out. items, findings: as the server answers them. error: why it failed."""

    job: Job
    inputs: Sequence[str]
    items: list[str]
    findings: dict[str, Any]
    warnings: list[dict[str, Any]]
    error: str | None


async def evaluate(
    configs: Sequence[EngineConfig],
    evaluator: str,
    params: Params,
    texts: Sequence[str],
    out: Path,
) -> Done:
    """Of the model, and of the baseline if there is a second configuration. Goes on from what
    `out` holds. Raises `RequestError` for what cannot be evaluated, and `ConfigError` if `out` is
    another evaluation's."""
    with _engines(configs) as engines:
        subjects = {
            engine.model_name: served_subject(engine, config)
            for engine, config in zip(engines, configs, strict=True)
        }
        limits = ServiceLimits(keep_seconds=_FOREVER)
        evaluations = Evaluations(Journal(out / "journal.sqlite"), subjects, EVALUATORS, limits)
        async with evaluations.running():
            wanted = JobLimits(max_seconds=MAX_JOB_SECONDS)
            order = evaluations.order(evaluator, list(subjects), params, texts, wanted)
            try:
                job = evaluations.submit(order, _KEY)
            except ConflictError as error:
                raise ConfigError(
                    f"{out} holds another evaluation: choose another --out, or delete it."
                ) from error
            job = await _finished(evaluations, job)
            return await _collected(evaluations, job, texts)


@contextmanager
def _engines(configs: Sequence[EngineConfig]) -> Iterator[list[AsyncEngine]]:
    """The second one works in the first one's time."""
    engines: list[AsyncEngine] = []
    try:
        for number, config in enumerate(configs):
            host = engines[0] if engines else None
            name = f"{resolve_model(config.model).name} (baseline)" if number else None
            engine = build_engine(config.model_copy(update={"profile": "guess"}), name, host)
            engine.start()
            engines.append(engine)
        yield engines
    finally:
        for engine in reversed(engines):
            engine.stop()


async def _finished(evaluations: Evaluations, job: Job) -> Job:
    with tqdm(total=job.progress.total or None, unit="unit", desc=job.evaluator) as bar:
        while True:
            job = evaluations.find(job.id)
            bar.total = job.progress.total
            bar.set_postfix_str(job.progress.phase or "", refresh=False)
            bar.update(job.progress.done - bar.n)
            if job.status.is_final:
                return job
            await asyncio.sleep(0.2)


async def _collected(evaluations: Evaluations, job: Job, texts: Sequence[str]) -> Done:
    items: list[str] = []
    after = -1
    while page := await evaluations.items(job, after, _PAGE):
        items += [item for _, item in page]
        after = page[-1][0]
    error = None if job.error is None else f"{job.error.code}: {job.error.message}"
    findings = await evaluations.findings(job)
    return Done(job, texts, items, findings, evaluations.warnings(job), error)
