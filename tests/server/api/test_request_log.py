"""The line of the log that each request ends with: what it tells, and what it never does."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from observed_server import observed

from cast_server.config import HttpConfig
from cast_server.engine.request import Request, SamplingParams, SpeculationStats
from cast_server.engine.timings import Timings
from cast_server.errors import EngineFailureError, EngineOverloadedError, RequestError
from cast_server.observing.exchange import Exchange, WatchedEngine
from cast_server.observing.logs import JsonFormatter, TextFormatter

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
# no hexadecimal digits, so that no id looks like a text
SECRETS = st.text('qxzjkUVW猫🦜é "\\\n\r\x1b\u2028=', min_size=6, max_size=30).filter(
    lambda text: len(text.strip()) >= 6
)


class Lines:
    """What was logged since it was last asked."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def raw(self) -> list[str]:
        text = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        return text.splitlines()

    def __call__(self) -> list[dict]:
        return [json.loads(line) for line in self.raw()]


def listening(formatter: logging.Formatter) -> Iterator[Lines]:
    stream = io.StringIO(newline="")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("cast_server")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield Lines(stream)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@pytest.fixture
def lines() -> Iterator[Lines]:
    yield from listening(JsonFormatter())


@pytest.fixture
def text_lines() -> Iterator[Lines]:
    yield from listening(TextFormatter())


def wait_for(lines: Lines, eventually) -> list[dict]:
    """A line is written after the answer's end."""
    found: list[dict] = []
    eventually(lambda: found.extend(lines()) or any("request_id" in one for one in found))
    return found


def test_a_line_tells_what_happened(http, engine, lines, eventually) -> None:
    engine.script = engine.saying(
        "ab",
        "c",
        speculation=SpeculationStats(4, 8, 2, (3, 0, 1), 2.25, 1.0, 1.5, "cast:32"),
        num_cached_tokens=2,
        timings=Timings(10.0, 10.5, 11.0, 13.0, 13.25),
    )
    headers = {"x-request-id": "mine"}
    http.post(TEXT, json={"prompt": "hello"}, headers=headers)
    (line,) = wait_for(lines, eventually)
    assert 0 < line.pop("seconds") < 5
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "cast_server.observing.request_log",
        "message": "POST /v1/completions 200",
        "request_id": "mine",
        "owner": "",
        "method": "POST",
        "route": TEXT,
        "status": 200,
        "error": None,
        "aborted": None,
        "choices": 1,
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "cached_tokens": 2,
        "queue_seconds": 0.5,
        "ttft_seconds": 1.0,
        "tokens_per_second": 1.2,
        "policy": "cast:32",
        "drafted": 8,
        "accepted": 2,
    }


@pytest.mark.parametrize("stream", [False, True])
def test_choices_are_one_line(http, engine, lines, eventually, stream) -> None:
    body = {"prompt": ["one", "three"], "n": 2, "stream": stream}
    assert http.post(TEXT, json=body).status_code == 200
    (line,) = wait_for(lines, eventually)
    assert (line["choices"], line["prompt_tokens"], line["finish_reason"]) == (4, 8, "stop")


@given(secret=SECRETS, path=st.sampled_from([CHAT, TEXT]), stream=st.booleans())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("refusal", [None, RequestError("No.", "prompt"), RuntimeError("boom")])
def test_no_line_holds_a_text(
    http, engine, lines, text_lines, eventually, secret, path, stream, refusal
) -> None:
    """Nor a key: whatever the answer, whatever the format."""
    engine.refusal = refusal
    engine.script = engine.saying(secret, secret)
    body = {"stream": stream, "stop": [secret], "user": secret}
    body |= {"messages": [{"role": "user", "content": secret}]} if path == CHAT else {}
    body |= {"prompt": secret} if path == TEXT else {}
    key = "sk-qxzjk-secret-key"
    http.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
    shown = json.dumps(secret)[1:-1], secret, secret.strip()
    written: list[str] = []
    eventually(lambda: written.extend(text_lines.raw()) or any("request_id" in x for x in written))
    written += lines.raw()
    assert all(json.loads(line) for line in written if line.startswith("{"))
    assert not [line for line in written if key in line or any(one in line for one in shown)]


@given(secret=SECRETS)
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_path_cannot_break_a_line(http, lines, text_lines, eventually, secret) -> None:
    answer = http.get("/" + "".join(f"%{byte:02x}" for byte in secret.encode()))
    assert answer.status_code == 404
    found: list[str] = []
    eventually(lambda: found.extend(text_lines.raw()) or bool(found))
    assert len(found) == 1
    assert found[0].isprintable()
    (line,) = lines()
    assert (line["route"], line["status"], line["error"]) == (None, 404, "unknown_url")


def test_texts_are_logged_if_that_is_asked_for(engine, lines, eventually) -> None:
    with observed(engine, HttpConfig(log_texts=True)) as client:
        client.post(TEXT, json={"prompt": ["ask ", "ask\nagain"]})
        client.post(TEXT, json={"prompt": "hidden", "n": 0})
    warning, line, refused = lines()
    assert warning["level"] == "warning"
    assert "--log-texts" in warning["message"]
    assert line["prompts"] == ["ask ", "ask\nagain"]
    assert line["answers"] == ["Hello world"] * 2
    assert "prompts" not in refused


def test_monitors_are_not_worth_a_line(http, lines, eventually) -> None:
    http.get("/health")
    http.get("/metrics")
    http.get("/v1/models")
    assert [line["route"] for line in wait_for(lines, eventually)] == ["/v1/models"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (EngineFailureError("Ours."), "internal_error", 500),
        (RuntimeError("nobody foresaw"), "internal_error", 500),
        (EngineOverloadedError("Full."), "engine_overloaded", 503),
    ],
)
def test_failures_have_a_code(http, engine, lines, eventually, error, code, status, stream):
    engine.script = engine.failing(error, after=("x",))
    http.post(TEXT, json={"prompt": "a", "stream": stream})
    line = wait_for(lines, eventually)[-1]
    assert (line["status"], line["error"]) == (200 if stream else status, code)
    assert line["level"] == ("info" if stream else "warning")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves(http, engine, lines, eventually, connect, stream) -> None:
    engine.script = engine.never_ending() if stream else engine.silent()
    sock = connect(TEXT, json.dumps({"prompt": "a", "stream": stream}).encode())
    eventually(lambda: bool(engine.requests))
    if stream:
        sock.recv(1)
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    (line,) = wait_for(lines, eventually)
    assert (line["aborted"], line["finish_reason"]) == ("client_gone", "abort")
    assert line["status"] == (200 if stream else 499)


def test_a_choice_that_fails_aborts_the_others(http, engine, lines, eventually) -> None:
    def script(request):
        failing = engine.failing(EngineFailureError("No."))
        return (failing if engine.copy_of(request) else engine.silent())(request)

    engine.script = script
    before = aborted(http)
    assert http.post(TEXT, json={"prompt": "a", "n": 2}).status_code == 500
    line = wait_for(lines, eventually)[-1]
    assert (line["aborted"], line["finish_reason"]) == ("internal_error", "abort,error")
    assert aborted(http) == before + 1


def test_tokenizing_a_prompt_is_part_of_its_time(engine) -> None:
    """A handler gets its engine when the body has been read, and makes its requests later."""
    exchange = Exchange("POST", TEXT)
    watched = WatchedEngine(engine, exchange, keeps_texts=False)
    time.sleep(0.02)
    request = Request("cmpl-0", (1, 2), SamplingParams(), seed=0)

    async def read() -> None:
        async for _ in watched.generate(request):
            pass

    asyncio.run(read())
    (generation,) = exchange.generations
    assert request.arrival_time - 5 < generation.request.arrival_time < request.arrival_time - 0.01
    assert generation.request.id == request.id
    assert engine.requests == [generation.request]


def aborted(http: httpx2.Client) -> float:
    name = 'castserve_aborted_requests_total{cause="internal_error"} '
    found = [one for one in http.get("/metrics").text.splitlines() if one.startswith(name)]
    return float(found[0].removeprefix(name)) if found else 0.0
