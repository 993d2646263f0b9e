"""Asks an OpenAI-compatible server over HTTP, and waits for the end of the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import httpx2

from cast_bench.serve.answer import Answer, AnswerReader, Failure, StreamError
from cast_bench.serve.workload import Question
from cast_server.errors import ConfigError

PATHS: Final[Mapping[str, str]] = {"chat": "chat/completions", "completions": "completions"}
_DONE: Final = b"[DONE]"
# What httpcore says of a connection on which nothing came back.
_NOTHING_CAME: Final = "Server disconnected without sending a response."


@dataclass(frozen=True, slots=True)
class Asking:
    """How questions are put. `body` is what all of them have in common."""

    endpoint: str
    body: Mapping[str, Any]
    seed: int
    timeout: float

    def body_of(self, question: Question) -> dict[str, Any]:
        """Each request with a seed of its own."""
        if self.endpoint == "chat":
            asked: dict[str, Any] = {"messages": [{"role": "user", "content": question.prompt}]}
        else:
            asked = {"prompt": question.prompt}
        return asked | {"seed": self.seed + question.index} | dict(self.body)


def open_client(base_url: str, api_key: str | None) -> httpx2.AsyncClient:
    """As many connections as there are requests at a time, kept for the next ones."""
    url = _url(base_url)
    headers = {"Accept-Encoding": "identity"}  # nothing waits for a compressor's block
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=None)


def _url(base_url: str) -> httpx2.URL:
    with suppress(httpx2.InvalidURL):
        url = httpx2.URL(base_url)
        if url.scheme in ("http", "https") and url.host:
            return url.copy_with(path="/v1") if url.path in ("", "/") else url
    raise ConfigError(f"--base-url {base_url}: must begin like http://127.0.0.1:8000.")


async def served_model(http: httpx2.AsyncClient) -> str:
    """The first model of the server's list. Raises `ConfigError` if there is none to be had."""
    try:
        async with asyncio.timeout(30):
            response = await http.get("models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except (httpx2.HTTPError, TimeoutError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{http.base_url}models names no model ({error or type(error).__name__}): is the "
            "server running there? --base-url says where, --model what to ask for."
        ) from None


async def warm_up(http: httpx2.AsyncClient, asking: Asking, questions: Sequence[Question]) -> int:
    """Asks one after the other, and returns how many. Raises `ConfigError` at the first failure."""
    for question in questions:
        failure = (await ask(http, asking, question, 0.0, perf_counter())).failure
        if failure is not None:
            raise ConfigError(
                f"{http.base_url}{PATHS[asking.endpoint]} does not answer: {failure.name}: "
                f"{failure.message}"
            )
    return len(questions)


async def ask(
    http: httpx2.AsyncClient, asking: Asking, question: Question, due: float, start: float
) -> Answer:
    """The answer, whole or with its failure. `start` is the run's, of `perf_counter`."""
    reader = AnswerReader()
    sent = perf_counter()
    failure = await _failure_of(http, asking, question, reader)
    answer = reader.answer(question.index, due, sent - start)
    if failure is None and not answer.chunk_seconds:
        failure = Failure("no token", "the answer ended without one")
    if failure is None:
        return answer
    seconds = perf_counter() - sent
    return Answer(question.index, due, sent - start, seconds, failure=failure)


async def _failure_of(
    http: httpx2.AsyncClient, asking: Asking, question: Question, reader: AnswerReader
) -> Failure | None:
    try:
        async with asyncio.timeout(asking.timeout):
            return await _read_on_open_connection(http, asking, question, reader)
    except TimeoutError:
        return Failure("timeout", f"no end after {asking.timeout:g} s")
    except httpx2.ConnectError as error:
        return Failure("no connection", str(error))
    except httpx2.TransportError as error:
        return Failure("connection dropped", str(error) or type(error).__name__)
    except StreamError as error:
        return Failure("error in stream", str(error))
    except (ValueError, TypeError, AttributeError) as error:
        return Failure("unreadable event", str(error))


async def _read_on_open_connection(
    http: httpx2.AsyncClient, asking: Asking, question: Question, reader: AnswerReader
) -> Failure | None:
    """A server may close a kept connection just as it is used again: that is no failure."""
    try:
        return await _read_answer(http, asking, question, reader)
    except httpx2.RemoteProtocolError as error:
        if str(error) != _NOTHING_CAME:
            raise
    return await _read_answer(http, asking, question, reader)


async def _read_answer(
    http: httpx2.AsyncClient, asking: Asking, question: Question, reader: AnswerReader
) -> Failure | None:
    sent = perf_counter()
    body = asking.body_of(question)
    async with http.stream("POST", PATHS[asking.endpoint], json=body) as response:
        if response.status_code != httpx2.codes.OK:
            told = (await response.aread()).decode(errors="replace")
            return Failure(f"HTTP {response.status_code}", _message(told))
        async for data, now in _events(response):
            if data == _DONE:
                reader.is_whole = True
            else:
                reader.read(json.loads(data), now - sent)
    return None if reader.is_whole else Failure("answer cut short", "the stream ended early")


async def _events(response: httpx2.Response) -> AsyncIterator[tuple[bytes, float]]:
    """Each event's data and when it came. Lines end in LF; JSON may hold what Unicode calls one."""
    rest = b""
    async for piece in response.aiter_bytes():
        now = perf_counter()
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip(), now


def _message(told: str) -> str:
    try:
        return str(json.loads(told)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return told[:200]
