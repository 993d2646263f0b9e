"""What `curl -N` shows of a stream: every byte, when it comes, and under which headers."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import pytest
from tiny_server import tiny_server

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "the cat"}]},
    "/v1/completions": {"prompt": "the cat"},
}
LENGTH = 40
STEP_SECONDS = 0.02


@pytest.fixture(scope="module")
def server():
    with tiny_server(step_seconds=STEP_SECONDS) as server:
        yield server


def curl(server, path: str, **fields) -> subprocess.Popen[bytes]:
    body = {"stream": True, "max_tokens": LENGTH, "ignore_eos": True, "temperature": 0}
    sent = json.dumps(body | BODIES[path] | fields)
    kind = "Content-Type: application/json"
    command = ["curl", "-N", "-s", "-i", "--raw", server.url + path, "-H", kind, "-d", sent]
    return subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)


def dechunked(body: bytes) -> list[bytes]:
    """The pieces of a body in HTTP/1.1's chunked form. Fails if it is in no such form."""
    pieces = []
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        piece, body = body[:length], body[length:]
        assert body[:2] == b"\r\n"
        body = body[2:]
        if not length:
            assert not body
            return pieces
        pieces.append(piece)


@pytest.mark.parametrize("path", BODIES)
def test_every_byte_of_a_stream(server, path) -> None:
    raw, _ = curl(server, path).communicate(timeout=30)
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert status == "HTTP/1.1 200 OK"
    assert headers["content-type"].partition(";")[0] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"].startswith("req-")
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers
    pieces = dechunked(body)
    # an event is never cut in two, and nothing stands between two of them
    assert all(piece.startswith(b"data: ") for piece in pieces)
    assert all(piece.endswith(b"\n\n") for piece in pieces)
    *events, done, rest = b"".join(pieces).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(b"\n" not in event for event in events)
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]


@pytest.mark.parametrize("path", BODIES)
def test_it_arrives_while_the_engine_works(server, path) -> None:
    server.until(lambda: server.is_idle)
    steps = len(server.steps)
    with curl(server, path) as process:
        assert process.stdout is not None
        seen: list[tuple[float, int]] = []
        while process.stdout.read(65536):
            seen.append((time.monotonic(), len(server.steps) - steps))
    # what one read brought, came after what the engine had done by then, not at its end
    arrivals = [done for _, done in seen]
    assert arrivals[0] < LENGTH / 4
    assert len(set(arrivals)) > LENGTH / 4
    assert seen[-1][0] - seen[0][0] > LENGTH * STEP_SECONDS / 2


def test_leaving_curl_ends_the_work(server) -> None:
    with curl(server, "/v1/completions", max_tokens=200) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        assert not server.is_idle
        process.terminate()
        begin = time.monotonic()
        server.until(lambda: server.is_idle)
    assert time.monotonic() - begin < 200 * STEP_SECONDS / 2
