"""One point of load: sends its questions by the clock, or as places get free, and waits for all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import httpx2
from tqdm import tqdm

from cast_bench.serve.answer import Answer
from cast_bench.serve.arrivals import arrivals
from cast_bench.serve.client import Asking, ask
from cast_bench.serve.workload import Question

_LAG_EVERY: Final = 0.01  # seconds


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a second, and how many at most at a time: None for no limit."""

    request_rate: float
    max_concurrency: int | None
    burstiness: float
    seed: int

    def __str__(self) -> str:
        words = [] if math.isinf(self.request_rate) else [f"{self.request_rate:g} requests/s"]
        words += [f"{self.max_concurrency} at a time"] if self.max_concurrency else []
        return ", ".join(words) or "all at once"


@dataclass(slots=True)
class Run:
    """What came of a load, as far as it came. `lags` are seconds by which the client woke late."""

    load: Load
    questions: Sequence[Question]
    answers: list[Answer] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    num_sent: int = 0
    seconds: float = 0.0
    interrupted: bool = False


async def run_load(
    http: httpx2.AsyncClient, asking: Asking, load: Load, questions: Sequence[Question]
) -> Run:
    """Returns when all have ended. Ctrl-C, once, ends it earlier with what has come by then."""
    run = Run(load, questions)
    slots = asyncio.Semaphore(load.max_concurrency or len(questions))
    due = arrivals(len(questions), load.request_rate, load.burstiness, load.seed)
    start = perf_counter()

    async def send(question: Question, due: float) -> None:
        await asyncio.sleep(start + due - perf_counter())
        async with slots:
            run.num_sent += 1
            run.answers.append(await ask(http, asking, question, due, start))
            progress.update()

    with tqdm(total=len(questions), desc=str(load)) as progress:
        pairs = zip(questions, due.tolist(), strict=True)
        tasks = [asyncio.create_task(send(question, due)) for question, due in pairs]
        watching = asyncio.create_task(_watch(run.lags))
        try:
            run.interrupted = await _is_interrupted(tasks)
        finally:
            run.seconds = perf_counter() - start
            watching.cancel()
            await asyncio.gather(*tasks, watching, return_exceptions=True)
    return run


async def _is_interrupted(tasks: Sequence[asyncio.Task[None]]) -> bool:
    """Waits for all. asyncio turns the first Ctrl-C into the cancellation of its main task."""
    try:
        await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        return True
    return False


async def _watch(lags: list[float]) -> None:
    """A client that wakes late reads late: its own times would be in the server's."""
    with suppress(asyncio.CancelledError):
        while True:
            due = perf_counter() + _LAG_EVERY
            await asyncio.sleep(_LAG_EVERY)
            lags.append(perf_counter() - due)
