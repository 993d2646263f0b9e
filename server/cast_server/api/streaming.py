"""Answers as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cast_server.api.accounting import metrics_of, usage_of
from cast_server.api.engine import Engine
from cast_server.api.failures import as_request_error, error_event
from cast_server.api.formats import Chunk, Format
from cast_server.api.generation import ClientGoneError, merged_outputs, run_while_connected
from cast_server.api.pings import pinging
from cast_server.api.protocol import StreamOptions
from cast_server.api.requests import RequestGroup
from cast_server.api.step_traces import TraceWriter
from cast_server.engine.request import RequestOutput


class EventStream(StreamingResponse):
    """Sends events until they end or the client leaves, then closes their generator."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # a proxy that buffers or caches would undo the streaming
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # While a client reads slowly, its events wait at a yield, where no cancellation reaches
        # them: hence the explicit closing, which aborts the engine's requests.
        with suppress(ClientGoneError):
            async with (
                aclosing(self._events),
                pinging(send, scope["app"].state.sse_ping) as sending,
            ):
                await run_while_connected(self.stream_response(sending), receive)


async def answer_events(
    engine: Engine,
    group: RequestGroup,
    form: Format,
    options: StreamOptions,
    traces: TraceWriter,
) -> AsyncGenerator[bytes, None]:
    """The whole stream of an answer. A failure is its last event but [DONE]."""
    try:
        async with aclosing(_answer_chunks(engine, group, form, options, traces)) as chunks:
            async for chunk in chunks:
                yield _event(chunk.model_dump_json(exclude_unset=True).encode())
    except Exception as error:  # noqa: BLE001 - it is too late for a status, so the stream tells it
        yield error_event(as_request_error(error))
    else:
        yield _event(b"[DONE]")


async def _answer_chunks(
    engine: Engine,
    group: RequestGroup,
    form: Format,
    options: StreamOptions,
    traces: TraceWriter,
) -> AsyncGenerator[Chunk, None]:
    latest = [RequestOutput(request_id=request.id) for request in group.requests]
    async with aclosing(_choice_chunks(engine, group, form, latest, traces)) as chunks:
        async for chunk in chunks:
            if options.include_usage:
                chunk.usage = usage_of(group, latest) if options.continuous_usage_stats else None
            elif _is_last(chunk, latest):
                chunk.metrics = metrics_of(latest)
            yield chunk
    if options.include_usage:
        closing = form.closing()
        closing.usage = usage_of(group, latest)
        closing.metrics = metrics_of(latest)
        yield closing


async def _choice_chunks(
    engine: Engine,
    group: RequestGroup,
    form: Format,
    latest: list[RequestOutput],
    traces: TraceWriter,
) -> AsyncGenerator[Chunk, None]:
    """All chunks that belong to a choice. Keeps in `latest` how far each has come."""
    for chunk in form.opening(len(group.requests)):
        yield chunk
    async with aclosing(merged_outputs(engine, group)) as outputs:
        async for index, output in outputs:
            latest[index] = output
            chunks = list(form.news(index, output))
            if output.steps:
                chunks = chunks or [form.closing()]
                chunks[0].speculation = traces.news(index, output)
            for chunk in chunks:
                yield chunk
            if output.finish_reason is not None:
                yield form.ending(index, output)


def _is_last(chunk: Chunk, latest: list[RequestOutput]) -> bool:
    ends = any(choice.finish_reason is not None for choice in chunk.choices)
    return ends and all(output.finish_reason is not None for output in latest)


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
