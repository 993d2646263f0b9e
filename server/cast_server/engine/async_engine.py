"""The engine thread and its two queues: requests and aborts in, outputs out.

Only `Request`, request ids and `RequestOutput` cross, so that the engine could move to a process of
its own. Outputs cross once a step, whole accepted paths at a time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from cast_drafters.policy import POLICIES
from cast_server.engine.core import EngineCore
from cast_server.engine.embedding import embed
from cast_server.engine.fingerprint import system_fingerprint
from cast_server.engine.grammar import Grammar
from cast_server.engine.ledger import Figures
from cast_server.engine.meter import SpeculationReport
from cast_server.engine.request import Request, RequestOutput
from cast_server.engine.status import EngineStatus, status_of
from cast_server.engine.trace import check_traceable
from cast_server.errors import (
    ContextLengthError,
    DeadlineError,
    EngineFailureError,
    EngineOverloadedError,
    RequestError,
)

T = TypeVar("T")

_log = logging.getLogger(__name__)


Job = Generator[None, None, T]  # yields between slices of work, returns what comes of it


@dataclass(frozen=True, slots=True)
class _Job:
    id: str
    job: Job[Any]
    future: concurrent.futures.Future[Any]
    is_call: bool = False


@dataclass(frozen=True, slots=True)
class _Stream:
    loop: asyncio.AbstractEventLoop
    outputs: asyncio.Queue[RequestOutput]


class AsyncEngine:
    """Runs an `EngineCore` in one thread that owns the device. Methods are for event loops."""

    def __init__(
        self,
        core: EngineCore,
        model_name: str,
        max_waiting: int = 1024,
        on_stop: Callable[[], None] | None = None,
        host: AsyncEngine | None = None,
    ) -> None:
        """`on_stop` is called once, when the thread has ended in order. With a `host`, all that
        this engine computes is background work of that one, whose thread owns the device."""
        self.model_name = model_name
        self.created = int(time.time())
        self._core = core
        # torch has one random state for all threads: who seeds it holds this, in guests too.
        self.seeding: threading.Lock = threading.Lock() if host is None else host.seeding
        self._step = core.step if host is None else partial(host.call, core.step)
        self._max_waiting = max_waiting
        self._on_stop = on_stop
        self._inbox: queue.SimpleQueue[Request | _Job | str | None] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together, bounded by the model and by the KV cache."""
        pool = self._core.scheduler.pool
        return min(self._core.scheduler.limits.max_model_len, pool.num_blocks * pool.block_size)

    @cached_property
    def fingerprint(self) -> str:
        return system_fingerprint(self._core)

    @property
    def vocab_size(self) -> int:
        return self._core.runner.vocab_size

    @property
    def tokenizer(self) -> Any:
        return self._core.tokenizer

    @property
    def model(self) -> Any:
        """The target, as transformers loaded it but for its fused layers: to be looked at only."""
        return self._core.runner.model

    @property
    def policies(self) -> tuple[str, ...]:
        return tuple(POLICIES)

    def report(self) -> SpeculationReport:
        """What speculation has been worth so far."""
        return self._core.report()

    def figures(self) -> Figures:
        """All that the engine has counted, and how busy it is."""
        return self._core.figures()

    def status(self) -> EngineStatus:
        """How busy the engine is, and what it drafts by."""
        return status_of(self._core)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its current step; what is unfinished ends with an error."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()
            if self._on_stop is not None:
                self._on_stop()

    def check_grammar(self, grammar: Grammar) -> None:
        """Compiles it, so that a request can begin with it at once; for worker threads.

        Raises `RequestError`, a sentence on what is wrong with it.
        """
        self._core.grammars.check(grammar)

    def check(self, request: Request) -> None:
        """Raises `RequestError` if the request can never be served, or not now."""
        if len(self._streams) >= self._max_waiting + self._core.scheduler.limits.max_num_seqs:
            raise EngineOverloadedError(
                f"{len(self._streams)} requests are under way already; try again in a moment."
            )
        prompt, params = request.prompt_token_ids, request.params
        if not prompt:
            raise RequestError("The prompt must not be empty.", "prompt")
        ids = (*prompt, *params.logit_bias, *params.stop_token_ids)
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise RequestError(f"Token id {wrong} is not below {self.vocab_size}, the vocabulary.")
        self._check_length(len(prompt), params.max_tokens)
        check_traceable(request, self._core.drafter)
        try:
            self._core.policy_of(request)
        except ValueError as cause:
            raise RequestError(str(cause), "speculation") from cause

    def _check_length(self, num_prompt: int, max_tokens: int) -> None:
        limit = self.max_model_len
        if num_prompt + max_tokens > limit:
            raise ContextLengthError(
                f"This model's maximum context length is {limit} tokens. However, your request "
                f"needs {num_prompt + max_tokens} tokens ({num_prompt} in the prompt, {max_tokens} "
                "for the completion). (context_length_exceeded)",
                "prompt",
            )

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        """Outputs of one checked request, until one has a `finish_reason`.

        Closing the iterator, or cancelling whoever waits for it, aborts the request. So does its
        deadline, with a `DeadlineError`.
        """
        outputs: asyncio.Queue[RequestOutput] = asyncio.Queue()
        with self._lock:
            self._streams[request.id] = _Stream(asyncio.get_running_loop(), outputs)
        self._inbox.put(request)
        if not self._thread.is_alive():
            self._fail_all()
        is_finished = False
        try:
            while not is_finished:
                output = await _before(request.deadline, outputs)
                is_finished = output.finish_reason is not None
                yield output
        finally:
            with self._lock:
                self._streams.pop(request.id, None)
            if not is_finished:
                self._inbox.put(request.id)

    async def work(self, make_job: Callable[[EngineCore], Job[T]], *, is_call: bool = False) -> T:
        """Runs a job on the engine's thread, a slice at a time beside requests: see `Background`.

        Returns or raises what the job does. Cancelling whoever waits for it closes the job.
        """
        job = self._post(make_job(self._core), is_call=is_call)
        try:
            result: T = await asyncio.wrap_future(job.future)
            return result
        finally:
            self._forget(job)

    async def embed(self, token_ids: Sequence[int]) -> list[float]:
        """The mean of the model's last hidden states over a text that fits, with length 1.

        Raises `EngineOverloadedError` if too many wait already.
        """
        with self._lock:
            num_calls = sum(job.is_call for job in self._jobs.values())
        if num_calls >= self._max_waiting:
            raise EngineOverloadedError(
                f"{num_calls} texts are being read already; try again in a moment."
            )
        return await self.work(lambda core: embed(core, token_ids), is_call=True)

    def call(self, function: Callable[[], T]) -> T:
        """As `work`, for a job of one slice and a thread that waits for it."""

        def job() -> Job[T]:
            return function()
            yield

        posted = self._post(job())
        try:
            result: T = posted.future.result()
            return result
        finally:
            self._forget(posted)

    def _post(self, job: Job[Any], *, is_call: bool = False) -> _Job:
        name = f"job-{uuid.uuid4().hex}"
        posted = _Job(name, job, concurrent.futures.Future(), is_call)
        with self._lock:
            self._jobs[posted.id] = posted
        self._inbox.put(posted)
        if not self._thread.is_alive():
            self._fail_all()
        return posted

    def _forget(self, job: _Job) -> None:
        with self._lock:
            is_open = self._jobs.pop(job.id, None) is not None
        if is_open:
            self._inbox.put(job.id)

    def _run(self) -> None:
        try:
            self._core.runner.enter_thread()
            while self._take_in():
                self._deliver(self._step())
        except BaseException:
            _log.exception("the engine thread has died")
            raise
        finally:
            self._fail_all()

    def _take_in(self) -> bool:
        """Takes in what has arrived; waits for it if there is nothing else to do."""
        while not self._inbox.empty() or not self._core.has_work:
            message = self._inbox.get()
            if message is None:
                return False
            if isinstance(message, str):
                self._core.abort(message)
            elif isinstance(message, _Job):
                job = self._sliced(message)
                self._core.background.add(message.id, job, is_call=message.is_call)
            else:
                self._add(message)
        return True

    def _add(self, request: Request) -> None:
        try:
            self._core.add(request)
        except Exception as cause:  # noqa: BLE001 - one must not end the thread that serves all
            error = cause if isinstance(cause, RequestError) else None
            if error is None:
                _log.exception("request %s could not be started", request.id)
                error = EngineFailureError("The server failed on this request.")
            self._core.abort(request.id)
            self._deliver(
                [RequestOutput(request_id=request.id, finish_reason="error", error=error)]
            )

    def _sliced(self, job: _Job) -> Generator[None, None, None]:
        try:
            result = yield from job.job
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits for the job
            self._settle(job, error=error)
        else:
            self._settle(job, result)

    def _settle(self, job: _Job, result: Any = None, error: Exception | None = None) -> None:
        with self._lock:
            is_open = self._jobs.pop(job.id, None) is not None
        if not is_open or not job.future.set_running_or_notify_cancel():
            return  # nobody waits any more
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)

    def _deliver(self, outputs: list[RequestOutput]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, RequestOutput]]] = {}
        with self._lock:
            for output in outputs:
                stream = self._streams.get(output.request_id)
                if stream is not None:
                    by_loop.setdefault(stream.loop, []).append((stream, output))
        for loop, batch in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, batch)
            except RuntimeError:  # the loop was closed under its streams; nobody is listening
                _log.warning("%d outputs came after their event loop was closed", len(batch))

    def _fail_all(self) -> None:
        error = EngineFailureError("The engine has stopped.")
        with self._lock:
            ids = list(self._streams)
            jobs = list(self._jobs.values())
        for job in jobs:
            self._settle(job, error=error)
        self._deliver(
            [RequestOutput(request_id=i, finish_reason="error", error=error) for i in ids]
        )


async def _before(deadline: float | None, outputs: asyncio.Queue[RequestOutput]) -> RequestOutput:
    left = None if deadline is None else deadline - time.monotonic()
    try:
        async with asyncio.timeout(left):
            output = await outputs.get()
    except TimeoutError:
        raise DeadlineError from None
    if left is not None and left <= 0:  # a queue that is full needs no waiting, so nothing expired
        raise DeadlineError
    return output


def _put_all(batch: list[tuple[_Stream, RequestOutput]]) -> None:
    for stream, output in batch:
        stream.outputs.put_nowait(output)
