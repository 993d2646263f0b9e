"""A client that leaves takes its requests out of the engine, wherever they are by then."""

from __future__ import annotations

import hashlib

import pytest
from tiny_server import body, tiny_server

from cast_server.api.keys import ApiKeys

ALLOWED = "Authorization: Bearer secret\r\nOrigin: https://a.example\r\nx-request-timeout: 60\r\n"


@pytest.fixture(scope="module")
def server():
    # with everything around the routes that there is
    everything = {"cors_origins": "*", "request_timeout": 60, "max_requests_per_key": 8}
    with tiny_server(keys=ApiKeys(None, "secret"), step_seconds=0.02, **everything) as server:
        yield server


def check_free(server, seconds: float = 5.0) -> None:
    """That nothing is left, after the step that was under way and no other."""
    before = len(server.steps)
    server.until(lambda: server.is_idle, seconds)
    assert len(server.steps) - before <= 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_while_it_decodes(server, stream, n) -> None:
    begun = len(server.steps)
    with server.post(body(stream=stream, n=n), ALLOWED):
        server.until(lambda: len(server.steps) > begun + 5)
        assert not server.is_idle
    check_free(server)


@pytest.mark.parametrize("stream", [True, False])
def test_while_a_long_prompt_is_read(server, stream) -> None:
    begun = len(server.steps)
    server.core.scheduler.limits, before = (
        type(server.core.scheduler.limits)(4, 8, 8, 256, False),
        server.core.scheduler.limits,
    )
    try:
        with server.post(body(stream=stream, prompt="x" * 200, max_tokens=9), ALLOWED):
            server.until(lambda: len(server.steps) > begun + 2)
            [sequence] = server.core.scheduler.running
            assert 0 < sequence.num_computed < sequence.num_prompt
        check_free(server)
    finally:
        server.core.scheduler.limits = before


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 2])
def test_while_it_waits_for_a_place(server, stream, n) -> None:
    with server.post(body(n=4), ALLOWED):  # as many as there are places
        server.until(lambda: len(server.core.scheduler.running) == 4)
        with server.post(body(stream=stream, n=n), ALLOWED):
            server.until(lambda: len(server.core.scheduler.waiting) == n)
        server.until(lambda: not server.core.scheduler.waiting, 1)
        assert len(server.core.scheduler.running) == 4
    check_free(server)


def test_while_it_sends_its_body(server, caplog) -> None:
    before = len(server.requests)
    with server.connect() as sock:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{ALLOWED}Content-Length: 1000\r\n\r\n"
        sock.sendall(head.encode() + b'{"prompt": "the')
    assert server.get("/health").status_code == 200
    assert len(server.requests) == before
    assert [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")] == []


def test_the_limit_of_its_key_is_free_again(server) -> None:
    for _ in range(3):
        socks = [server.post(body(stream=True), ALLOWED) for _ in range(8)]
        server.until(lambda: len(server.core.scheduler.waiting) == 4)
        for sock in socks:
            sock.close()
        server.until(lambda: server.is_idle)


def test_the_key_reaches_the_engine_as_a_name_only(server) -> None:
    answer = server.ask(max_tokens=1, headers={"Authorization": "Bearer secret"})
    assert answer.status_code == 200, answer.text
    request = server.requests[-1]
    assert request.owner == "default"
    assert "secret" not in repr(request)
    assert hashlib.sha256(b"secret").hexdigest() not in repr(request)
