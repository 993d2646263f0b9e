"""HTTP requests counted, by the event loop's thread."""

from __future__ import annotations

from collections import Counter
from typing import Final

from cast_server.engine.histogram import Histogram
from cast_server.engine.ledger import SECONDS
from cast_server.observing.exchange import Exchange

_METHODS: Final = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})


class HttpCounts:
    """Labels come from tables of ours, never from what clients write: there are few of them."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()  # route, method, status
        self.errors: Counter[str] = Counter()  # by code
        self.aborted: Counter[str] = Counter()  # engine's requests, by cause
        self.seconds: dict[str, Histogram] = {}  # by route

    def add(self, exchange: Exchange) -> None:
        """An exchange has ended."""
        route = exchange.route or "none"
        method = exchange.method if exchange.method in _METHODS else "other"
        self.requests[route, method, str(exchange.status)] += 1
        self.seconds.setdefault(route, Histogram(SECONDS)).add(exchange.seconds)
        if exchange.error is not None:
            self.errors[exchange.error] += 1
        if exchange.unfinished:
            self.aborted[exchange.cause] += len(exchange.unfinished)
