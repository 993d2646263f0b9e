"""Open connections: none may wait for ever, and there is always room for a new one."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_log = logging.getLogger(__name__)

ACCEPTED_AT_ONCE: Final = 16  # in one turn of the event loop, so that others get theirs
_OTHER_FILES: Final = 256  # of models, journals and libraries
_MOST: Final = 8192
_SWEEP_SECONDS: Final = 0.25
_COMPLAINT_SECONDS: Final = 60.0


class Connections:
    """Knows who waits for a request's head, and whose answer nobody takes, the longest first.

    `most` connections may be open; `seconds` is for how long a client may keep the server waiting.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._idle: dict[GuardedProtocol, float] = {}
        self._stuck: dict[GuardedProtocol, float] = {}
        self._complained_at = -_COMPLAINT_SECONDS

    def expect_head(self, connection: GuardedProtocol) -> None:
        """It waits for a request, or for the rest of a request's head."""
        self._idle.setdefault(connection, time.monotonic())

    def got_head(self, connection: GuardedProtocol) -> None:
        """A request is being worked on."""
        self._idle.pop(connection, None)

    def is_stuck(self, connection: GuardedProtocol) -> None:
        """Its client takes nothing, and all buffers are full."""
        self._stuck[connection] = time.monotonic()

    def flows(self, connection: GuardedProtocol) -> None:
        """Its client goes on reading."""
        self._stuck.pop(connection, None)

    def forget(self, connection: GuardedProtocol) -> None:
        """It is closed."""
        self.got_head(connection)
        self.flows(connection)

    def make_room(self, num_open: int) -> None:
        """Closes the one that has been idle longest, if there are too many."""
        if num_open > self._most:
            self._shed(1)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler: without free files, idle connections give theirs up."""
        error = context.get("exception")
        if "accept" not in context.get("message", "") or not isinstance(error, OSError):
            loop.default_exception_handler(context)
            return
        self._shed(ACCEPTED_AT_ONCE)
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAINT_SECONDS:
            self._complained_at = now
            _log.warning("No connection can be accepted at the moment: %s", error.strerror)

    async def watch(self) -> None:
        """Closes whoever keeps the server waiting for too long. Until it is cancelled."""
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self._seconds / 4))
            latest = time.monotonic() - self._seconds
            for waiting in (self._idle, self._stuck):
                for connection in [one for one, since in waiting.items() if since < latest]:
                    connection.cut()

    def _shed(self, count: int) -> None:
        for connection in list(self._idle)[:count]:
            connection.cut()


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which tells `Connections` what its client is waited for."""

    def __init__(self, *args: Any, guard: Connections, **others: Any) -> None:
        super().__init__(*args, **others)
        self._guard = guard

    def cut(self) -> None:
        """Closes the connection without another word."""
        self._guard.forget(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._guard.expect_head(self)
        self._guard.make_room(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._tell()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._tell()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._guard.is_stuck(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._guard.flows(self)

    def _tell(self) -> None:
        if self.transport.is_closing():
            return  # a client that is not read from any more has nothing to be waited for
        if self.conn.their_state is h11.IDLE:
            self._guard.expect_head(self)
        else:
            self._guard.got_head(self)


def raise_file_limit() -> int:
    """Lets this process open files for as many connections as are taken at all, or for as many as
    the system allows. Returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max(ACCEPTED_AT_ONCE, wanted - _OTHER_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # not allowed here; what there is has to do
        wanted = soft
    return max(ACCEPTED_AT_ONCE, wanted - _OTHER_FILES)
