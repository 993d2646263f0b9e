"""A request that takes too long ends, in words that its client understands, and gives all back."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest
from tiny_server import body, read_all, tiny_server

from cast_server.engine.request import Request, SamplingParams
from cast_server.errors import DeadlineError

SHORT = "x-request-timeout: 0.3\r\n"


@pytest.fixture(scope="module")
def server():
    with tiny_server(step_seconds=0.02, sse_ping=0.1) as server:
        yield server


def check_free(server) -> None:
    before = len(server.steps)
    server.until(lambda: server.is_idle, 1)
    assert len(server.steps) - before <= 2


@pytest.mark.parametrize("way", ["header", "field"])
def test_a_whole_answer_is_a_408_that_is_not_to_be_tried_again(server, way) -> None:
    begin = time.monotonic()
    if way == "header":
        answer = server.ask(headers={"x-request-timeout": "0.3"})
    else:
        answer = server.ask(timeout=0.3)
    assert 0.3 <= time.monotonic() - begin < 1.5
    assert answer.status_code == 408
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("timeout_error", "request_timeout")
    check_free(server)


def test_the_official_client_does_not_try_it_again(server) -> None:
    before = len(server.requests)
    with server.client() as client, pytest.raises(openai.APIStatusError) as error:
        client.with_options(max_retries=3).completions.create(
            model="tiny", prompt="a", extra_body=body(), extra_headers={"x-request-timeout": "0.2"}
        )
    assert error.value.status_code == 408
    assert len(server.requests) == before + 1


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_ends_with_an_error_and_done(server, n) -> None:
    chunks = []
    with server.client() as client:
        stream = client.completions.create(
            model="tiny", prompt="a", stream=True, extra_body=body(n=n, timeout=0.3)
        )
        with pytest.raises(openai.APIError) as error:
            chunks.extend(iter(stream))
    assert len(chunks) > 3
    assert error.value.code == "request_timeout"
    check_free(server)
    with server.post(body(stream=True, n=n), SHORT + "Connection: close\r\n") as sock:
        received = read_all(sock)
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert received.count(b"[DONE]") == 1
    assert received.count(b'"code":"request_timeout"') == 1


@pytest.mark.parametrize("stream", [True, False])
def test_also_while_it_waits_for_a_place(server, stream) -> None:
    with server.post(body(n=4)):
        server.until(lambda: len(server.core.scheduler.running) == 4)
        with server.post(body(stream=stream), SHORT + "Connection: close\r\n") as sock:
            server.until(lambda: len(server.core.scheduler.waiting) == 1)
            assert b"request_timeout" in read_all(sock)
        server.until(lambda: not server.core.scheduler.waiting, 1)
        assert len(server.core.scheduler.running) == 4
    server.until(lambda: server.is_idle, 1)


def test_what_is_fast_enough_is_left_alone(server) -> None:
    answer = server.ask(max_tokens=2, timeout=20, headers={"x-request-timeout": "20"})
    assert answer.json()["usage"]["completion_tokens"] == 2
    assert 10 < server.requests[-1].deadline - time.monotonic() < 20


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "1e999"])
def test_a_header_that_is_no_time_is_refused(server, text) -> None:
    answer = server.ask(headers={"x-request-timeout": text})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-request-timeout"
    assert text in answer.json()["error"]["message"]


@pytest.mark.parametrize("value", [0, -1, "1"])
def test_a_field_that_is_no_time_is_refused(server, value) -> None:
    answer = server.ask(timeout=value)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "timeout")


def test_the_server_has_a_limit_too_and_nobody_gets_more() -> None:
    with tiny_server(step_seconds=0.02, request_timeout=0.3) as server:
        begin = time.monotonic()
        answer = server.ask(timeout=60, headers={"x-request-timeout": "60"})
        assert time.monotonic() - begin < 1.5
        assert answer.json()["error"]["code"] == "request_timeout"
        check_free(server)


def test_the_engine_keeps_deadlines_by_itself(server) -> None:
    one = Request(
        "alone", (1, 2, 3), SamplingParams(max_tokens=200, ignore_eos=True), 0,
        deadline=time.monotonic() + 0.2,
    )  # fmt: skip

    outputs = []

    async def read() -> None:
        async for output in server.engine.generate(one):
            outputs.append(output)  # noqa: PERF401 - what came before the error is wanted too

    with pytest.raises(DeadlineError):
        asyncio.run(read())
    assert len(outputs) > 1
    check_free(server)


def test_silence_is_filled_with_comments(server) -> None:
    with server.post(body(n=4)):
        server.until(lambda: len(server.core.scheduler.running) == 4)
        head = "x-request-timeout: 0.55\r\nConnection: close\r\n"
        with server.post(body(stream=True), head) as sock:
            received = read_all(sock)
        assert 3 <= received.count(b": ping\n\n") <= 5
    server.until(lambda: server.is_idle, 1)
    with server.post(body(stream=True, max_tokens=20), "Connection: close\r\n") as sock:
        assert b"ping" not in read_all(sock)  # where there is always something to tell


def test_comments_are_no_events_for_clients() -> None:
    with tiny_server(step_seconds=0.1, sse_ping=0.02) as server, server.client() as client:
        stream = client.completions.create(model="tiny", prompt="a", max_tokens=4, stream=True)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
        with server.post(body(stream=True, max_tokens=4), "Connection: close\r\n") as sock:
            assert read_all(sock).count(b": ping\n\n") > 4


def test_no_comments_if_none_are_wanted() -> None:
    with (
        tiny_server(step_seconds=0.1, sse_ping=0) as server,
        server.post(body(stream=True, max_tokens=3), "Connection: close\r\n") as sock,
    ):
        assert b"ping" not in read_all(sock)
