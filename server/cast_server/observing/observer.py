"""What one application tells of itself: its registry of metrics, its log lines, its spans."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CollectorRegistry

from cast_server.config import HttpConfig
from cast_server.observing.cast_metrics import CastCollector, HttpCollector
from cast_server.observing.engine_metrics import EngineCollector
from cast_server.observing.exchange import Exchange
from cast_server.observing.families import Engine
from cast_server.observing.http_counts import HttpCounts
from cast_server.observing.pulse import beat
from cast_server.observing.request_log import RequestLog
from cast_server.observing.traces import Tracer, open_tracer

_log = logging.getLogger(__name__)

_BEAT_SECONDS: Final = 10.0


class Observer:
    """Everything is called from the event loop's thread.

    evaluations: counts of those that have not ended, by status. Raises `ConfigError` if spans are
    to be sent and cannot be.
    """

    def __init__(
        self,
        engine: Engine,
        config: HttpConfig,
        evaluations: Callable[[], Mapping[str, int]] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self.keeps_texts = config.log_texts
        self._engine = engine
        self._http = HttpCounts()
        self._requests = RequestLog(engine.tokenizer)
        self._tracer = tracer
        if tracer is None and config.otlp_endpoint is not None:
            self._tracer = open_tracer(config.otlp_endpoint, engine.model_name)
        self.registry.register(EngineCollector(engine))
        self.registry.register(CastCollector(engine))
        self.registry.register(HttpCollector(self._http, evaluations))

    def ended(self, exchange: Exchange) -> None:
        """Notes an HTTP request. Never raises: an answer does not depend on who watches."""
        try:
            self._http.add(exchange)
            self._requests.write(exchange)
            if self._tracer is not None and exchange.generations:
                self._tracer.record(exchange)
        except Exception:  # noqa: BLE001 - whatever it was, the client has been answered
            _log.exception("an HTTP request could not be noted")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Writes a line of the log every few seconds while there is work; sends the last spans."""
        if self.keeps_texts:
            _log.warning("--log-texts: prompts and answers of all clients are written to the log.")
        pulse = asyncio.create_task(beat(self._engine, _BEAT_SECONDS))
        try:
            yield
        finally:
            pulse.cancel()
            await asyncio.gather(pulse, return_exceptions=True)
            if self._tracer is not None:
                await asyncio.to_thread(self._tracer.close)
