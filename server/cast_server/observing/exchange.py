"""One HTTP request and its answer, as metrics, logs and traces see them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, cast

from cast_server.engine.request import Request, RequestOutput

_KEY: Final = "exchange"  # in an ASGI scope's state


@dataclass(slots=True)
class Generation:
    """A request to the engine, and the latest news of it. `texts`: None unless they are kept."""

    request: Request
    latest: RequestOutput
    texts: list[str] | None = None

    @property
    def is_finished(self) -> bool:
        return self.latest.finish_reason is not None


@dataclass(slots=True)
class Exchange:
    """`route` is the path of the handler, None if there is none. `error` is the code of the failure
    that the client was told. `begun` and `ended`: monotonic seconds; `clock`: Unix ns at `begun`.
    """

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    clock: int = field(default_factory=time.time_ns)
    ended: float | None = None
    request_id: str = ""
    route: str | None = None
    status: int = 0  # 0: no answer was begun
    error: str | None = None
    is_complete: bool = False
    was_cancelled: bool = False
    generations: list[Generation] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return (time.monotonic() if self.ended is None else self.ended) - self.begun

    @property
    def unfinished(self) -> list[Generation]:
        """What the engine was told to forget."""
        return [one for one in self.generations if not one.is_finished]

    @property
    def cause(self) -> str:
        """Why the unfinished were: an error's code, `client_gone`, `shutdown`, or `closed`, by what
        words the answer."""
        if self.error is not None:
            return self.error
        if self.was_cancelled:
            return "shutdown"
        return "closed" if self.is_complete and self.status != 499 else "client_gone"


class _Engine(Protocol):
    def generate(self, request: Request) -> AsyncIterator[RequestOutput]: ...


class WatchedEngine:
    """An engine as the handler of one HTTP request sees it: what it asks for and gets is noted.

    Its requests arrive when it was made: templates and tokenization are part of their time.
    """

    def __init__(self, engine: _Engine, exchange: Exchange, *, keeps_texts: bool) -> None:
        self._engine, self._exchange, self._keeps_texts = engine, exchange, keeps_texts
        self._made = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        """As the engine's own."""
        request = replace(request, arrival_time=min(self._made, request.arrival_time))
        nothing = RequestOutput(request_id=request.id)
        generation = Generation(request, nothing, [] if self._keeps_texts else None)
        self._exchange.generations.append(generation)
        outputs = cast(AsyncGenerator[RequestOutput, None], self._engine.generate(request))
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    self._note(generation, output)
                    yield output
        except Exception:
            self._exchange.error = "internal_error"
            raise

    def _note(self, generation: Generation, output: RequestOutput) -> None:
        generation.latest = output
        if generation.texts is not None:
            generation.texts.append(output.text)
        if output.error is not None:
            self._exchange.error = output.error.code or output.error.type


def open_exchange(scope: MutableMapping[str, Any]) -> Exchange:
    """Begins to note what becomes of an HTTP request."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    kept = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
    exchange = Exchange(scope["method"], scope["path"], kept)
    scope.setdefault("state", {})[_KEY] = exchange
    return exchange


def exchange_of(scope: MutableMapping[str, Any]) -> Exchange | None:
    """The one that this HTTP request belongs to; None if nobody observes."""
    return cast("Exchange | None", scope.get("state", {}).get(_KEY))
