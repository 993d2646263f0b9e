"""HTTP in a thread of its own, from before the model is there until every answer has ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from cast_server.api.edge import Edge, loading_app
from cast_server.config import HttpConfig
from cast_server.connections import (
    ACCEPTED_AT_ONCE,
    Connections,
    GuardedProtocol,
    raise_file_limit,
)

_log = logging.getLogger(__name__)

BACKLOG: Final = 2048
_KEEP_ALIVE_SECONDS: Final = 30  # longer than clients' own, or they would meet closed connections
_GRACE_SECONDS: Final = 5  # for errors and last words to get out
_PULSE_SECONDS: Final = 0.5


class HttpSide:
    """Listens on a socket that is bound. Whatever is public here is for other threads to call."""

    def __init__(self, sock: socket.socket, config: HttpConfig, edge: Edge) -> None:
        self.edge = edge
        self._sock, self._config = sock, config
        self._doorway = _Doorway(loading_app(config, edge))
        self._app: concurrent.futures.Future[tuple[FastAPI, Callable[[], bool]]]
        self._app = concurrent.futures.Future()
        self._is_open = threading.Event()
        self._is_well = False  # until it has ended as it should
        self._asked, self._asked_again = asyncio.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="http")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answers until the end of the block, and whatever was accepted by then to its end."""
        self._thread.start()
        try:
            yield
        finally:
            self._app.cancel()  # unless there is one already
            self.stop()
            self._thread.join()

    def open(self, app: FastAPI, is_alive: Callable[[], bool]) -> None:
        """From now on `app` answers. Everything stops by itself once `is_alive` is False."""
        self._app.set_result((app, is_alive))
        self._is_open.wait()

    def stop(self) -> None:
        """Accepts nothing any more and finishes what was accepted. Asked again, ends at once."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: all is over
                self._loop.call_soon_threadsafe(self._ask)

    def wait(self) -> bool:
        """Until all has ended. False if nobody had asked for that."""
        self._thread.join()
        return self._is_well

    def _ask(self) -> None:
        (self._asked_again if self._asked.is_set() else self._asked).set()

    def _run(self) -> None:
        most = self._config.max_connections or raise_file_limit()
        guard = Connections(most, self._config.client_timeout)
        options = uvicorn.Config(
            self._doorway,
            http=partial(GuardedProtocol, guard=guard),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # there is a line for each request already
            backlog=ACCEPTED_AT_ONCE,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the rest is told here
        try:
            with asyncio.Runner(loop_factory=options.get_loop_factory()) as runner:
                runner.run(self._live(_Uvicorn(options), guard))
        finally:
            self._is_open.set()  # nobody waits for what cannot come any more

    async def _live(self, server: uvicorn.Server, guard: Connections) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(guard.on_loop_error)
        watching = asyncio.create_task(guard.watch())
        answering = asyncio.create_task(server.serve(sockets=[self._sock]))
        try:
            await self._serve_model()
        finally:
            server.should_exit = True
            await answering
            watching.cancel()
            await _cut_all(server)

    async def _serve_model(self) -> None:
        try:
            app, is_alive = await asyncio.wrap_future(self._app)
        except asyncio.CancelledError:
            return  # there will be no model
        async with app.router.lifespan_context(app):
            self._doorway.app = app
            self.edge.lifecycle.open()
            self._is_open.set()
            while is_alive() and not await _within(_PULSE_SECONDS, self._asked):
                pass
            was_asked = is_alive()
            await self._drain()
        self._is_well = was_asked

    async def _drain(self) -> None:
        lifecycle, seconds = self.edge.lifecycle, self._config.drain_timeout
        lifecycle.drain()
        if lifecycle.num_accepted:
            _log.info(
                "Stopping: %d requests have %g seconds to end.", lifecycle.num_accepted, seconds
            )
        idle = asyncio.create_task(lifecycle.wait_until_idle())
        again = asyncio.create_task(self._asked_again.wait())
        await asyncio.wait((idle, again), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if lifecycle.num_accepted:
            _log.warning("Stopping: %d requests are cut off.", lifecycle.num_accepted)
            lifecycle.end()
            await asyncio.wait((idle,), timeout=_GRACE_SECONDS)
        for task in (idle, again):
            task.cancel()


class _Doorway:
    """Leads to the application of the moment."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _Uvicorn(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            # asyncio takes one number for how many may wait and how many are accepted in a row
            sock.listen(BACKLOG)


async def _cut_all(server: uvicorn.Server) -> None:
    """Of clients that do not take the rest of their answers."""
    for connection in tuple(server.server_state.connections):
        assert isinstance(connection, GuardedProtocol)
        connection.cut()
    await asyncio.sleep(0)  # the loop closes them in its next turn


async def _within(seconds: float, event: asyncio.Event) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
