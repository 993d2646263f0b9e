"""Where the server is in its life, and what that means for a request that comes now."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import MappingProxyType
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from cast_server.api.failures import error_response
from cast_server.api.patience import Answer, Patience, asked_seconds
from cast_server.errors import DeadlineError, EngineFailureError, NotReadyError, RequestError


class Phase(Enum):
    """Whoever watches the server is told the value."""

    LOADING = "loading"
    READY = "ok"
    DRAINING = "draining"


class Lifecycle:
    """Belongs to the event loop's thread. Counts the requests that were accepted."""

    def __init__(self, phase: Phase = Phase.LOADING) -> None:
        self.phase = phase
        self.is_ending = False
        self._accepted: set[Patience] = set()
        self._listeners: list[Callable[[], None]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_accepted(self) -> int:
        """Requests that are being worked on."""
        return len(self._accepted)

    def on_drain(self, listener: Callable[[], None]) -> None:
        """`listener` is called when the server begins to stop: who would wait for long, ends."""
        self._listeners.append(listener)

    def open(self) -> None:
        """From now on requests are accepted."""
        self.phase = Phase.READY

    def drain(self) -> None:
        """From now on none are; those that were go on."""
        self.phase = Phase.DRAINING
        for listener in self._listeners:
            listener()

    def end(self) -> None:
        """Cuts off what is still being worked on; each gets an error as its answer, or its end."""
        self.is_ending = True
        for patience in tuple(self._accepted):
            patience.lose()

    async def wait_until_idle(self) -> None:
        """Until no accepted request is left."""
        await self._idle.wait()

    @contextmanager
    def accepted(self, patience: Patience) -> Iterator[None]:
        """A request, for as long as it is worked on."""
        self._accepted.add(patience)
        self._idle.clear()
        try:
            yield
        finally:
            self._accepted.discard(patience)
            if not self._accepted:
                self._idle.set()


class LifecycleMiddleware:
    """Refuses what comes too early or too late, and ends what takes too long.

    Handlers find a request's `Patience` in `state.patience`, and may shorten it.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, seconds: float | None = None) -> None:
        self._app, self._lifecycle, self._most = app, lifecycle, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
            return
        if (reason := _REFUSALS.get(self._lifecycle.phase)) is not None:
            error = NotReadyError(*reason)
            # so that the client's next request finds another server
            await error_response(error, {"Connection": "close"})(scope, receive, send)
            return
        try:
            asked = asked_seconds(scope)
        except RequestError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._run(asked, scope, receive, send)

    async def _run(self, asked: float, scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(scope, send)
        try:
            async with asyncio.timeout(None) as timeout:
                patience = Patience(timeout)
                patience.shorten(min(asked, self._most or math.inf))
                scope.setdefault("state", {})["patience"] = patience
                with self._lifecycle.accepted(patience):
                    await self._app(scope, receive, answer.send)
        except TimeoutError:
            if not timeout.expired():
                raise  # it is a failure of the handler's own
            error = EngineFailureError(*_CUT_OFF) if patience.is_lost else DeadlineError()
            await answer.end(error, receive)


# Of these the last only once there is something to count.
_ALWAYS_ANSWERED: Final = ("/health", "/ping", "/version", "/metrics")
_REFUSALS: Final[Mapping[Phase, tuple[str, None, str]]] = MappingProxyType(
    {
        Phase.LOADING: ("The model is being loaded; try again in a moment.", None, "model_loading"),
        Phase.DRAINING: ("The server is about to stop; ask again.", None, "server_stopping"),
    }
)
_CUT_OFF: Final = (
    "The server has stopped before the request was finished.",
    None,
    "server_stopped",
)
