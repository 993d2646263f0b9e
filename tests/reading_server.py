"""A tiny random model behind the real HTTP application, on a real socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tiny_models
import uvicorn

from cast_server.api.app import create_app
from cast_server.config import HttpConfig
from cast_server.engine.async_engine import AsyncEngine

MODEL = "org/tiny"


@contextmanager
def serving(model: Any, tokenizer: Any = None, **changes: Any) -> Iterator[tuple[str, AsyncEngine]]:
    """The server's URL and its engine, which takes the model over; float32, on the CPU."""
    engine = AsyncEngine(tiny_models.tiny_core(model, tokenizer, **changes), MODEL)
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(engine, HttpConfig()), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    engine.start()
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}", engine
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
        sock.close()
        engine.stop()
