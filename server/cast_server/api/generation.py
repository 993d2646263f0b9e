"""Running the engine's requests of one HTTP request, for as long as the client waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, TypeVar

from starlette.types import Receive

from cast_server.api.engine import Engine
from cast_server.api.requests import RequestGroup
from cast_server.engine.request import Request, RequestOutput
from cast_server.errors import EngineFailureError, SlowClientError

_T = TypeVar("_T")

# Of a choice, that wait for a client to read on. What the socket's buffers hold comes on top.
MAX_UNREAD: Final = 1024


class ClientGoneError(Exception):
    """The client closed its connection before the answer was complete."""


async def run_while_connected(work: Coroutine[Any, Any, _T], receive: Receive) -> _T:
    """Returns what `work` returns; cancels it and raises `ClientGoneError` if the client leaves."""
    task = asyncio.ensure_future(work)
    departure = asyncio.ensure_future(_wait_for_departure(receive))
    try:
        await asyncio.wait((task, departure), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        await _cancel(task, departure)


async def merged_outputs(
    engine: Engine, group: RequestGroup
) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """Yields (choice, output) as the engine makes them, until every choice has ended.

    All requests start at once and in order. Closing the generator aborts those still running.
    Raises the `RequestError` of the first that fails, and aborts the others. For whoever does not
    take what comes that is `SlowClientError`.
    """
    queue: asyncio.Queue[tuple[int, RequestOutput | None]] = asyncio.Queue()
    most = MAX_UNREAD * len(group.requests)
    tasks = [
        asyncio.ensure_future(_forward(engine, request, choice, queue, most))
        for choice, request in enumerate(group.requests)
    ]
    try:
        running = len(tasks)
        while running:
            choice, output = await queue.get()
            if output is None:
                await tasks[choice]  # raises what ended it, if it did not end well
                running -= 1
            else:
                _raise_failure(output)
                yield choice, output
    finally:
        await _cancel(*tasks)


async def _forward(
    engine: Engine,
    request: Request,
    choice: int,
    queue: asyncio.Queue[tuple[int, RequestOutput | None]],
    most: int,
) -> None:
    # The only place to wait is inside the engine's generator, so that is where a cancellation of
    # this task arrives, and the generator aborts the request.
    is_finished = False
    try:
        async for output in engine.generate(request):
            is_finished = output.finish_reason is not None
            queue.put_nowait((choice, output))
            if queue.qsize() >= most:
                await asyncio.sleep(0)  # whoever reads at all has read everything by then
                _check_is_read(queue.qsize(), most)
        if not is_finished:
            raise EngineFailureError("The engine dropped the request before it was finished.")
    finally:
        queue.put_nowait((choice, None))


def _check_is_read(unread: int, most: int) -> None:
    if unread >= most:
        raise SlowClientError(f"The answer is not being read: {unread} pieces of it wait.")


def _raise_failure(output: RequestOutput) -> None:
    if output.error is not None:
        raise output.error
    if output.finish_reason in ("abort", "error"):
        raise EngineFailureError("The engine stopped working on the request.")


async def _wait_for_departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
