"""Who may come in: whoever brings a key, and not with too many requests at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cast_server.api.failures import error_response
from cast_server.api.keys import ApiKeys
from cast_server.errors import MissingKeyError, RateLimitError

# Of whoever asks for these nothing is known, and nothing is told that is not for everybody.
_OPEN_PATHS: Final = frozenset({"/health", "/ping", "/version", "/", "/favicon.ico"})
_OPEN_FOLDER: Final = "/page/"  # the files of the page at /


class KeyMiddleware:
    """Answers 401 unless the request brings a key. Its owner's name then is `state.owner`."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, also_open: Collection[str] = ()) -> None:
        self._app, self._keys = app, keys
        self._open = _OPEN_PATHS.union(also_open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        key = _bearer(Headers(scope=scope).get("authorization", ""))
        owner = self._keys.owner(key) if key else None
        if owner is None:
            await error_response(MissingKeyError(key), _CHALLENGE)(scope, receive, send)
            return
        scope.setdefault("state", {})["owner"] = owner
        await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path, method = scope["path"], scope["method"]
        is_read = method in ("GET", "HEAD")
        is_open = path in self._open or path.startswith(_OPEN_FOLDER)
        return method == "OPTIONS" or (is_read and is_open)


class KeyLimitMiddleware:
    """Answers 429 to an owner with as many requests under way as one may have."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        owner = scope.get("state", {}).get("owner")
        if owner is None or scope["method"] != "POST" or _is_job(scope["path"]):
            await self._app(scope, receive, send)
            return
        if self._running[owner] >= self._most:
            await error_response(RateLimitError(self._most))(scope, receive, send)
            return
        self._running[owner] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[owner] -= 1
            if not self._running[owner]:
                del self._running[owner]


_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


def _bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _is_job(path: str) -> bool:
    """Jobs have a queue and limits of their own, and one must be able to cancel them."""
    return path.startswith("/v1/evaluations")
