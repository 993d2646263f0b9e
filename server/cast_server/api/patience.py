"""How long a request may take, and what its client is told when time is up."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from cast_server.api.failures import error_event, error_response
from cast_server.errors import RequestError

TIMEOUT_HEADER: Final = "x-request-timeout"
_LAST_WORDS_SECONDS: Final = 2.0  # for a client that has stopped reading


class Patience:
    """A request's deadline, as `time.monotonic` tells time. When it is over, the work is cancelled,
    which takes its sequences out of the engine."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._begun = time.monotonic()
        self._timeout = timeout
        self.deadline: float | None = None
        self.is_lost = False

    def shorten(self, seconds: float) -> None:
        """To so many seconds from the request's arrival, unless that is longer."""
        deadline = self._begun + seconds
        if deadline < (math.inf if self.deadline is None else self.deadline):
            self.deadline = deadline
            self._move(deadline)

    def lose(self) -> None:
        """Ends the work now."""
        self.is_lost = True
        self._move(time.monotonic())

    def _move(self, when: float) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(when)


def asked_seconds(scope: Scope) -> float:
    """What the client's header allows; infinite without one. Raises `RequestError`."""
    text = Headers(scope=scope).get(TIMEOUT_HEADER)
    if text is None:
        return math.inf
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RequestError(
            f"{TIMEOUT_HEADER} must be a number of seconds above 0, got {text[:40]!r}.",
            TIMEOUT_HEADER,
        )
    return seconds


class Answer:
    """What a client has got so far, and how it can end badly from there."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._is_started = self._is_events = self._is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._is_started = True
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self._is_events = kind.startswith("text/event-stream")
        elif not message.get("more_body", False):
            self._is_complete = True
        await self._send(message)

    async def end(self, error: RequestError, receive: Receive) -> None:
        """With a status if it is not too late for one, with a last event in a stream of events."""
        if not self._is_started:
            await error_response(error)(self._scope, receive, self._send)
        elif self._is_events and not self._is_complete:
            try:
                async with asyncio.timeout(_LAST_WORDS_SECONDS):
                    await self._send({"type": "http.response.body", "body": error_event(error)})
            except TimeoutError:
                pass  # the connection is closed under whoever does not read
