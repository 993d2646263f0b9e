"""The real HTTP side around a tiny random model, in this process: keys, limits, drain and all.

As a program it is `cast-serve`'s own HTTP side on a free port, for tests that need a process of
their own: arguments are fields of `HttpConfig` as name=value, and step_seconds.
"""

from __future__ import annotations

import copy
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
import tiny_models

from cast_server.api.app import create_app
from cast_server.api.edge import Edge
from cast_server.api.keys import ApiKeys
from cast_server.api.lifecycle import Lifecycle
from cast_server.config import HttpConfig
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.core import EngineCore
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.http_side import HttpSide
from cast_server.serving import bind

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"
)
TEXT = "/v1/completions"


@dataclass
class TinyServer:
    """A server that listens; `ready` unless it was told to keep loading."""

    http: HttpSide
    engine: AsyncEngine
    core: EngineCore
    port: int
    steps: list[int] = field(default_factory=list)  # rows of each
    requests: list[Any] = field(default_factory=list)  # that reached the engine
    step_seconds: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_idle(self) -> bool:
        """Whether the engine has nothing left, and all blocks of its cache are free."""
        pool = self.core.scheduler.pool
        return not self.core.has_work and pool.num_free == pool.num_blocks

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=20)

    def get(self, path: str, **options: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=20, **options)

    def ask(self, **options: Any) -> httpx2.Response:
        headers = options.pop("headers", {})
        return httpx2.post(self.url + TEXT, json=body(**options), headers=headers, timeout=30)

    def post(self, fields: dict[str, Any], head: str = "", path: str = TEXT) -> socket.socket:
        """Sends a request through a bare socket and leaves the rest to the test."""
        sock = self.connect()
        content = json.dumps(fields).encode()
        kind = "Content-Type: application/json\r\n"
        start = f"POST {path} HTTP/1.1\r\nHost: x\r\n{kind}{head}"
        sock.sendall(f"{start}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        return sock

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.002)


def body(**fields: Any) -> dict[str, Any]:
    """A request for a long answer, unless told otherwise."""
    return {"prompt": "the cat", "max_tokens": 200, "ignore_eos": True, "temperature": 0} | fields


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def tiny_server(
    *,
    keys: ApiKeys | None = None,
    evaluations: Evaluations | None = None,
    step_seconds: float = 0.0,
    is_loading: bool = False,
    engine: dict[str, Any] | None = None,
    **http: Any,
) -> Iterator[TinyServer]:
    """`engine`: changes of its configuration; further arguments are those of `HttpConfig`."""
    tokenizer = copy.deepcopy(tiny_models.byte_level_tokenizer())
    tokenizer.chat_template = TEMPLATE
    options = {"max_num_seqs": 4, "prefix_caching": False} | (engine or {})
    core = tiny_models.tiny_core(tiny_models.model_of("llama"), tokenizer, **options)
    served = AsyncEngine(core, "tiny", max_waiting=64)
    config = HttpConfig(port=0, **http)
    with tiny_models.one_thread(), bind(config) as sock:
        side = HttpSide(sock, config, Edge(keys or ApiKeys(None), Lifecycle()))
        server = TinyServer(side, served, core, sock.getsockname()[1], step_seconds=step_seconds)
        _watch(server)
        with side.running():
            try:
                if not is_loading:
                    open_up(server, config, evaluations)
                yield server
            finally:
                side.stop()
                side.stop()  # nobody waits for what a test left behind
        served.stop()


def open_up(
    server: TinyServer, config: HttpConfig | None = None, evaluations: Evaluations | None = None
) -> None:
    """The model is there."""
    server.engine.start()
    app = create_app(server.engine, config or HttpConfig(), evaluations, server.http.edge)
    server.http.open(app, lambda: server.engine.is_alive)


def _watch(server: TinyServer) -> None:
    launch, add = server.core.target.launch, server.core.add

    def slow(scheduled: Any, trees: Any) -> Any:
        server.steps.append(sum(one.num_tokens for one in scheduled))
        time.sleep(server.step_seconds)
        return launch(scheduled, trees)

    def noted(request: Any) -> None:
        server.requests.append(request)
        add(request)

    server.core.target.launch = slow  # type: ignore[method-assign]
    server.core.add = noted  # type: ignore[method-assign]


def main(*arguments: str) -> None:
    options: dict[str, Any] = dict(one.split("=", 1) for one in arguments)
    step_seconds = float(options.pop("step_seconds", 0))
    is_asked = threading.Event()
    with tiny_server(step_seconds=step_seconds, **options) as server:
        signal.signal(signal.SIGTERM, lambda *_: (server.http.stop(), is_asked.set()))
        print(server.url, flush=True)
        server.http.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
