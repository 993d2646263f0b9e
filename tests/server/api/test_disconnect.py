"""A client that leaves takes its requests out of the engine."""

from __future__ import annotations

import json
import time

import pytest

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def body(path: str, **fields) -> bytes:
    prompt = {"prompt": "a"} if path == TEXT else {"messages": [{"role": "user", "content": "a"}]}
    return json.dumps(prompt | fields).encode()


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_leaving_a_stream_aborts_all_its_requests(connect, engine, eventually, path) -> None:
    engine.script = engine.never_ending()
    with connect(path, body(path, stream=True, n=3)) as sock:
        received = b""
        while b"word" not in received:
            received += sock.recv(1000)
    eventually(lambda: len(engine.aborted) == 3)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("is_streamed", [True, False])
def test_leaving_while_the_request_waits_aborts_it(
    connect, engine, eventually, path, is_streamed
) -> None:
    engine.script = engine.silent()
    with connect(path, body(path, stream=is_streamed, n=2)):
        eventually(lambda: len(engine.requests) == 2)
    eventually(lambda: len(engine.aborted) == 2)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_leaving_without_a_stream_aborts_while_generating(
    connect, engine, eventually, path
) -> None:
    engine.script = engine.never_ending()
    with connect(path, body(path)):
        eventually(lambda: len(engine.requests) == 1)
        assert engine.aborted == []
    eventually(lambda: len(engine.aborted) == 1)


def test_leaving_a_stream_that_was_not_read_aborts_it(connect, engine, eventually) -> None:
    engine.script = engine.never_ending("x" * 200_000, pause=0.001)
    with connect(TEXT, body(TEXT, stream=True)) as sock:
        sock.recv(10)
        time.sleep(0.2)  # by then the server has filled all buffers and waits
    eventually(lambda: len(engine.aborted) == 1)


def test_a_complete_answer_is_not_aborted(http, engine) -> None:
    for is_streamed in (True, False, True):
        http.post(
            TEXT,
            content=body(TEXT, stream=is_streamed),
            headers={"content-type": "application/json"},
        )
    assert len(engine.requests) == 3
    assert engine.aborted == []


def test_nothing_is_logged_about_a_client_that_left(connect, engine, eventually, caplog) -> None:
    engine.script = engine.never_ending()
    for is_streamed in (True, False):
        with connect(TEXT, body(TEXT, stream=is_streamed)):
            eventually(lambda: bool(engine.requests))
        eventually(lambda: len(engine.aborted) == len(engine.requests))
        engine.requests.clear()
        engine.aborted.clear()
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
