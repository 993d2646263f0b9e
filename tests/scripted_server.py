"""An OpenAI-compatible server on a real socket that does what the prompt says.

A prompt is JSON: `first` and `gaps`, seconds before the first chunk and between chunks; `tokens`,
how many each brings (default: one); `told`, where their counts are told: "each" chunk, "llama.cpp",
"end" or "never"; `status` for a refusal; `break` for how a stream ends badly.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

MODEL = "scripted"


class ScriptedServer:
    """An ASGI application. Remembers the requests that came and how many there were at a time."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.clients: set[tuple[str, int]] = set()
        self.arrived: list[float] = []
        self.most = self._now = 0
        self.url = ""

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/v1/models":
            await self._answer(send, 200, {"data": [{"id": MODEL}]})
            return
        body = json.loads(await _body(receive))
        self.arrived.append(time.perf_counter())
        self.bodies.append(body)
        self.headers.append(dict(scope["headers"]))
        self.clients.add(tuple(scope["client"]))
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self._follow(_script(body), "messages" in body, send)
        finally:
            self._now -= 1

    async def _follow(self, script: dict[str, Any], is_chat: bool, send) -> None:
        if status := script.get("status"):
            await self._answer(send, status, {"error": {"message": f"no: {status}"}})
            return
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in _opening(is_chat):
            await _event(send, event)
        total = 0
        gaps = [script["first"], *script.get("gaps", ())]
        tokens = script.get("tokens", [1] * len(gaps))
        for gap, count in zip(gaps, tokens, strict=True):
            await asyncio.sleep(gap)
            total += count
            await _event(send, _chunk(is_chat, script.get("text", "word "), total, script))
        await _end(send, is_chat, total, script)

    async def _answer(self, send, status: int, body: dict[str, Any]) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


@contextmanager
def scripted() -> Iterator[ScriptedServer]:
    app = ScriptedServer()
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        app.url = f"http://127.0.0.1:{port}"
        yield app
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


def _script(body: dict[str, Any]) -> dict[str, Any]:
    prompt = body["messages"][0]["content"] if "messages" in body else body["prompt"]
    script: dict[str, Any] = json.loads(prompt)
    return script


def _opening(is_chat: bool) -> list[dict[str, Any]]:
    delta = {"role": "assistant", "content": ""}
    return [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}] if is_chat else []


def _chunk(is_chat: bool, text: str, total: int, script: dict[str, Any]) -> dict[str, Any]:
    news = {"delta": {"content": text}} if is_chat else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": None} | news]} | _counts(total, script)


def _counts(total: int, script: dict[str, Any]) -> dict[str, Any]:
    told = script.get("told", "each")
    if told == "each":
        return {"usage": {"prompt_tokens": 7, "completion_tokens": total}}
    if told == "llama.cpp":
        return {"timings": {"predicted_n": total, "draft_n": 8, "draft_n_accepted": 6}}
    return {"usage": None}


async def _end(send, is_chat: bool, total: int, script: dict[str, Any]) -> None:
    match script.get("break"):
        case "drop":
            raise ConnectionError("as the script says")
        case "error":
            await _event(send, {"error": {"message": "engine on fire"}})
        case "rubbish":
            await _event(send, {}, data=b"{rubbish")
        case "short":
            await send({"type": "http.response.body", "body": b""})
            return
        case _:
            news = {"delta": {}} if is_chat else {"text": ""}
            ending = {"choices": [{"index": 0, "finish_reason": "length"} | news]}
            await _event(send, ending | _counts(total, script))
            if script.get("told", "each") != "never":
                usage = {"prompt_tokens": 7, "completion_tokens": total}
                drafts = script.get("drafts")
                closing = {"metrics": {"speculative_decoding": drafts}} if drafts else {}
                await _event(send, {"choices": [], "usage": usage} | closing)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _event(send, event: dict[str, Any], data: bytes | None = None) -> None:
    data = data or json.dumps(event, ensure_ascii=False).encode()
    body = b"data: " + data + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _body(receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
