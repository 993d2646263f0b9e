"""Watches every HTTP request from outside, and learns from inside which route it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cast_server.observing.exchange import Exchange, exchange_of, open_exchange


class ObservingMiddleware:
    """The outermost: tells `ended` of each exchange, whatever became of it."""

    def __init__(self, app: ASGIApp, ended: Callable[[Exchange], None]) -> None:
        self._app = app
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = open_exchange(scope)

        async def watching_send(message: Message) -> None:
            await send(message)
            _note(exchange, message)

        try:
            await self._app(scope, receive, watching_send)
        except asyncio.CancelledError:
            exchange.was_cancelled = True
            raise
        finally:
            exchange.ended = time.monotonic()
            self._ended(exchange)


class RouteMiddleware:
    """The innermost: those further out may hand on a copy of the scope, which learns no route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            exchange = exchange_of(scope) if scope["type"] == "http" else None
            if exchange is not None and "route" in scope:
                exchange.route = scope["route"].path


def _note(exchange: Exchange, message: Message) -> None:
    if message["type"] == "http.response.start":
        exchange.status = message["status"]
        exchange.request_id = Headers(raw=message["headers"]).get("x-request-id", "")
    elif message["type"] == "http.response.body":
        exchange.is_complete = not message.get("more_body", False)
