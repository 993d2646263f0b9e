"""A real HTTP server around any engine, its metrics read as Prometheus reads them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from cast_server.api.app import create_app
from cast_server.config import HttpConfig
from cast_server.observing.observer import Observer

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@contextmanager
def observed(
    engine, config: HttpConfig | None = None, observer: Observer | None = None
) -> Iterator[httpx2.Client]:
    """A client of the server, until the server has shut down in order."""
    app = create_app(engine, config or HttpConfig(), observer=observer)
    options = uvicorn.Config(
        app, port=0, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def families(client: httpx2.Client) -> dict[str, object]:
    return {one.name: one for one in text_string_to_metric_families(client.get("/metrics").text)}


def scrape(client: httpx2.Client) -> Samples:
    """Every sample, by its name and its labels but the model's."""
    return {
        (one.name, frozenset((k, v) for k, v in one.labels.items() if k != "model_name")): one.value
        for family in families(client).values()
        for one in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def counters(samples: Samples) -> Samples:
    """What may only rise: counters, and buckets and counts of histograms."""
    return {
        key: one
        for key, one in samples.items()
        if key[0].endswith(("_total", "_bucket", "_count", "_sum"))
    }
