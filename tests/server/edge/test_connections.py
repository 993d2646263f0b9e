"""Clients that say nothing, stop in the middle or do not read: none of them costs the others."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest
import tiny_server as harness
from tiny_server import body, read_all, tiny_server

from cast_server.connections import raise_file_limit

ROOT = Path(harness.__file__).parents[1]
ROOTS = ("server", "kernels", "drafters", "profiler", "bench", "tests")


def closes_within(sock: socket.socket, seconds: float) -> bool:
    sock.settimeout(seconds)
    try:
        return sock.recv(1000) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.fixture(scope="module")
def server():
    with tiny_server(client_timeout=0.6) as server:
        yield server


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET /health HTTP/1.1\r\nHost: x\r\n", b"POST /v1/completions HTTP/1.1\r\nA"],
)
def test_half_a_head_is_not_waited_for_for_ever(server, sent) -> None:
    with server.connect() as sock:
        sock.sendall(sent)
        begin = time.monotonic()
        assert closes_within(sock, 5)
        assert 0.4 < time.monotonic() - begin < 2


def test_a_head_that_comes_in_drops_has_no_more_time(server) -> None:
    def drip(sock: socket.socket) -> None:
        for _ in range(40):
            sock.sendall(b"A")
            time.sleep(0.05)

    with server.connect() as sock, pytest.raises(OSError, match=r"reset|Broken pipe"):
        drip(sock)


def test_nor_has_the_second_head_of_a_connection(server) -> None:
    with server.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b'"ok"' not in received:
            received += sock.recv(1000)
        time.sleep(0.3)
        sock.sendall(b"GET /hea")
        assert closes_within(sock, 5)


def test_half_a_body_is_a_408(server) -> None:
    with server.connect() as sock:
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        sock.sendall(head.encode() + b"{")
        begin = time.monotonic()
        answer = read_all(sock)
    assert 0.5 < time.monotonic() - begin < 2
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"client_too_slow"' in answer
    assert b"x-should-retry: false" in answer


def test_long_work_is_not_taken_for_silence(server) -> None:
    server.step_seconds = 0.05
    answer = server.ask(max_tokens=30)
    server.step_seconds = 0
    assert answer.json()["usage"]["completion_tokens"] == 30


def test_whoever_does_not_read_is_dropped_and_costs_no_memory() -> None:
    asked = body(stream=True, n=64, logprobs=20, max_tokens=240)
    with tiny_server(client_timeout=0.6) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        with sock:
            content = json.dumps(asked).encode()
            head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            sock.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            server.until(lambda: len(server.requests) == 64)
            server.until(lambda: server.is_idle, 20)  # long before all was generated
            rows = sum(server.steps)
            assert rows < 64 * 240
            assert server.ask(max_tokens=3).status_code == 200


def test_a_stream_that_is_not_read_ends_at_its_bound(monkeypatch) -> None:
    from cast_server.api import generation

    monkeypatch.setattr(generation, "MAX_UNREAD", 8)
    with tiny_server(step_seconds=0.001, client_timeout=30) as server:
        sock = server.post(body(stream=True, n=4, logprobs=20, max_tokens=240))
        server.until(lambda: len(server.requests) == 4)
        server.until(lambda: server.is_idle, 30)
        assert server.ask(stream=True, max_tokens=50).text.count("[DONE]") == 1
        sock.close()


def test_the_oldest_idle_connection_makes_room_for_a_new_one() -> None:
    with tiny_server(max_connections=4, step_seconds=0.02) as server, ExitStack() as stack:
        busy = stack.enter_context(server.post(body(stream=True)))
        server.until(lambda: len(server.requests) == 1)
        idle = []
        for _ in range(6):
            idle.append(stack.enter_context(server.connect()))
            time.sleep(0.05)
        assert all(closes_within(sock, 1) for sock in idle[:3])
        assert not closes_within(idle[-1], 0.1)
        assert server.get("/health").status_code == 200
        assert b"data:" in busy.recv(65536)


def test_without_free_files_the_idle_give_theirs_up(caplog) -> None:
    with tiny_server() as server, ExitStack() as stack:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = len(psutil.Process().open_files()) + psutil.Process().num_fds()
        idle = [stack.enter_context(server.connect()) for _ in range(20)]
        time.sleep(0.2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 41, before[1]))

        def connect_for_ever() -> None:
            while True:
                idle.append(stack.enter_context(server.connect()))

        try:
            with pytest.raises(OSError, match="Too many open files"):
                connect_for_ever()
            time.sleep(0.3)
            assert len([one for one in caplog.records if "No connection can" in one.message]) == 1
            assert [one for one in caplog.records if one.exc_info] == []
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert any(closes_within(sock, 1) for sock in idle[:5])
        server.until(lambda: server.get("/health").status_code == 200, 5)


def test_files_are_as_many_as_the_system_allows() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 4000))\n"
        "from cast_server.connections import raise_file_limit\n"
        "print(raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    env = {"PYTHONPATH": str(ROOT / "server")}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert said.stdout == b"3744 (4000, 4000)\n"
    assert 16 <= raise_file_limit() <= 8192


@pytest.mark.slow
def test_ten_thousand_idle_connections() -> None:
    command = [sys.executable, "-m", "tiny_server", "client_timeout=20"]
    env = {"PYTHONPATH": ":".join(str(ROOT / one) for one in ROOTS), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(process.terminate)
        url = process.stdout.readline().strip()
        port = int(url.rpartition(":")[2])
        assert httpx2.get(f"{url}/health").status_code == 200
        before = psutil.Process(process.pid).memory_info().rss
        slowest = 0.0
        for count in range(10_000):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            if count % 500 == 0:
                begin = time.monotonic()
                assert httpx2.get(f"{url}/health", timeout=20).status_code == 200
                slowest = max(slowest, time.monotonic() - begin)
        grown = psutil.Process(process.pid).memory_info().rss - before
        print(f"grown by {grown / 2**20:.0f} MB; /health within {slowest:.3f} s")
        assert psutil.Process(process.pid).num_fds() < 8500
        assert grown < 200 * 2**20
        assert slowest < 1
        answer = httpx2.post(f"{url}/v1/completions", json=body(max_tokens=5), timeout=20)
        assert answer.json()["usage"]["completion_tokens"] == 5
        deadline = time.monotonic() + 40
        while psutil.Process(process.pid).num_fds() > 100:
            assert time.monotonic() < deadline
            time.sleep(0.5)
