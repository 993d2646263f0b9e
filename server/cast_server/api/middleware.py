"""What surrounds every request. Plain ASGI, so that streams pass through untouched."""

from __future__ import annotations

import asyncio
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cast_server.api.failures import as_request_error, error_response, http_error
from cast_server.errors import SlowClientError

_PLAIN_ID = re.compile(r"[\x21-\x7e]{1,200}")
# Many clients read an answer only after they have sent everything, so a body that is too large is
# read to its end, though not kept, unless it is absurdly large.
_DRAINED_LIMITS = 8
_SLASHES = re.compile("/{2,}")


class RequestIdMiddleware:
    """Sends the client's `x-request-id` back, or one of our own, with every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _PLAIN_ID.fullmatch(request_id):
            request_id = f"req-{uuid.uuid4().hex}"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class InternalErrorMiddleware:
    """Turns what nobody foresaw into a 500 that tells nothing of the inside; the log tells all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_started = False

        async def watching_send(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, watching_send)
        except Exception as error:
            if is_started or scope["type"] != "http":
                raise  # all that is left is to cut the connection, which the HTTP server does
            await error_response(as_request_error(error))(scope, receive, send)


class CleanPathMiddleware:
    """Forgives what clients make of a base URL with a slash too many, as in `/v1//models/`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)


class BodyLimitMiddleware:
    """Reads the request's body before anything else does, and answers 413 if it is too large, 408
    if it is not there after so many seconds."""

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float | None = None) -> None:
        self._app = app
        self._max_bytes, self._seconds = max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = None if self._expects_refusal(scope) else await self._read(receive)
        except TimeoutError:
            late = SlowClientError(f"The body did not arrive within {self._seconds:g} seconds.")
            await error_response(late, {"Connection": "close"})(scope, receive, send)
            return
        if body is None:
            error = http_error(413, f"The body is larger than {self._max_bytes} bytes.")
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _expects_refusal(self, scope: Scope) -> bool:
        """Whether a client that is about to send too much asks first."""
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        is_large = length.isdecimal() and int(length) > self._max_bytes
        return is_large and headers.get("expect", "").lower() == "100-continue"

    async def _read(self, receive: Receive) -> list[Message] | None:
        """The messages up to the end of the body; None if it is too large."""
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            messages.append(message)
            if size > self._max_bytes:
                messages.clear()
            if size > _DRAINED_LIMITS * self._max_bytes:
                return None
            if not message.get("more_body", False):
                return messages or None


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def replaying_receive() -> Message:
        for message in waiting:
            return message
        return await receive()

    return replaying_receive
