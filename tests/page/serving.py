"""Servers on real sockets for the page: a tiny random model, or an engine that follows a script."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import tiny_models
import uvicorn

from cast_server.api.app import create_app
from cast_server.config import HttpConfig
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.request import Request, RequestOutput
from cast_server.engine.status import EngineStatus

KEY = "sk-of-the-tests"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{%- endfor -%}"
)


def chat_tokenizer() -> Any:
    tokenizer = deepcopy(tiny_models.byte_level_tokenizer())
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@contextmanager
def tiny_engine(**changes: Any) -> Iterator[AsyncEngine]:
    """A random model with a context of 1024 tokens, drafting from the text itself."""
    settings = {"policy": "cast", "max_model_len": 1024, "kv_cache_tokens": 4096} | changes
    model = tiny_models.randomised(lambda: tiny_models.llama(max_position_embeddings=1024))
    engine = AsyncEngine(tiny_models.tiny_core(model, chat_tokenizer(), **settings), "tiny")
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an ASGI application on a free port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    options = {"log_config": None, "lifespan": "off", "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(app, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@dataclass
class Watched:
    """The application; keeps what it has answered to chats."""

    app: Any
    answers: list[bytes] = field(default_factory=list)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/chat/completions":
            await self.app(scope, receive, send)
            return
        place = len(self.answers)
        self.answers.append(b"")

        async def noting_send(message) -> None:
            self.answers[place] += message.get("body", b"")
            await send(message)

        await self.app(scope, receive, noting_send)

    def last_steps(self) -> list[dict[str, Any]]:
        """The traces of the last streamed answer."""
        events = self.answers[-1].decode().split("\n\n")
        chunks = [json.loads(one.removeprefix("data: ")) for one in events if "data: {" in one]
        told = [chunk["speculation"] for chunk in chunks if "speculation" in chunk]
        return [step for one in told for step in one["steps"]]


@dataclass
class UnderPrefix:
    """A proxy that serves the application below `/llm/`, and nothing else."""

    app: Any

    async def __call__(self, scope, receive, send) -> None:
        is_below = scope["path"].startswith("/llm/")
        path = scope["path"].removeprefix("/llm") if is_below else "/nowhere"
        await self.app({**scope, "path": path, "raw_path": path.encode()}, receive, send)


@dataclass
class WithKey:
    """Wants `KEY` for all that is not the page."""

    app: Any

    async def __call__(self, scope, receive, send) -> None:
        given = dict(scope["headers"]).get(b"authorization")
        if not scope["path"].startswith("/v1") or given == f"Bearer {KEY}".encode():
            await self.app(scope, receive, send)
            return
        body = b'{"error": {"message": "No key.", "type": "x", "param": null, "code": null}}'
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def application(engine: Any) -> Any:
    return create_app(engine, HttpConfig())


class ScriptedEngine:
    """Answers every request with `outputs`, `pause` seconds before each; counts those aborted."""

    model_name = "scripted"
    fingerprint = "fp_0123456789ab"
    max_model_len = 4096
    vocab_size = 100_000
    policies = ("off", "chain", "cast")
    created = 0
    is_alive = True

    def __init__(self, real: AsyncEngine, tokenizer: Any) -> None:
        self.real, self.tokenizer = real, tokenizer
        self.outputs: list[RequestOutput] = []
        self.pause = 0.0
        self.aborted = 0

    def report(self) -> Any:
        return self.real.report()

    def status(self) -> EngineStatus:
        return self.real.status()

    def check(self, request: Request) -> None:
        pass

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        is_complete = False
        try:
            for output in self.outputs:
                await asyncio.sleep(self.pause)
                yield output
            is_complete = True
        finally:
            self.aborted += not is_complete
