"""From loading to stopped: what a server answers, and that nothing hangs."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import openai
import pytest
import tiny_models
import tiny_server as harness
from evaluations_at_work import EVALUATORS, QUIET, ScriptedSubject
from tiny_server import body, open_up, read_all, tiny_server

from cast_server.evaluators.jobs.journal import Journal
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.release import release

ROOTS = ("server", "kernels", "drafters", "profiler", "bench", "tests")


def status_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["status"]


@pytest.mark.parametrize("path", ["/health", "/ping"])
def test_while_loading_health_says_so_and_all_else_comes_back_later(path) -> None:
    with tiny_server(is_loading=True) as server:
        assert status_of(server.get(path)) == (503, "loading")
        assert server.get("/version").json() == {"version": release()}
        for answer in (server.ask(), server.get("/v1/models"), server.get("/nowhere")):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert answer.headers["x-request-id"]
            assert answer.json()["error"]["code"] == "model_loading"
            assert answer.json()["error"]["type"] == "server_error"
        open_up(server)
        assert status_of(server.get(path)) == (200, "ok")
        assert server.ask(max_tokens=1).status_code == 200


def test_the_official_client_waits_for_the_model() -> None:
    with tiny_server(is_loading=True) as server:
        threading.Timer(0.3, open_up, (server,)).start()
        with server.client() as client:
            answer = client.with_options(max_retries=2).completions.create(
                model="tiny", prompt="a", max_tokens=1
            )
        assert answer.usage.completion_tokens == 1


def test_stopping_while_loading_waits_for_nothing() -> None:
    begin = time.monotonic()
    with tiny_server(is_loading=True) as server:
        server.get("/health")
    assert time.monotonic() - begin < 3


def test_draining_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    with tiny_server(step_seconds=0.01) as server:
        stream, whole, waiting = (
            server.post(body(stream=stream, n=n, max_tokens=100), "Connection: close\r\n")
            for stream, n in ((True, 1), (False, 2), (True, 3))
        )
        idle = httpx2.Client(base_url=server.url)
        assert idle.get("/health").status_code == 200
        server.until(lambda: len(server.requests) == 6)
        assert len(server.core.scheduler.waiting) == 2
        server.http.stop()
        server.until(lambda: server.get("/health").status_code == 503, 1)
        assert status_of(server.get("/health")) == (503, "draining")
        refused = idle.post("/v1/completions", json=body())
        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "server_stopping"
        assert server.get("/metrics").status_code == 200
        for sock, count in ((stream, 1), (whole, 2), (waiting, 3)):
            assert read_all(sock).count(b'"finish_reason":"length"') == count
            sock.close()
        begin = time.monotonic()
        server.http.wait()
        assert time.monotonic() - begin < 3
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            server.connect()
    assert server.is_idle


def test_what_does_not_end_in_time_is_told_so(caplog) -> None:
    with tiny_server(step_seconds=0.05, drain_timeout=0.3) as server:
        socks = [
            server.post(body(stream=stream), "Connection: close\r\n")
            for stream in (True, False, True, False, True, False)  # the last two wait
        ]
        server.until(lambda: len(server.requests) == 6)
        begin = time.monotonic()
        server.http.stop()
        received = [read_all(sock) for sock in socks]
        for sock in socks:
            sock.close()
        assert server.http.wait()
        assert time.monotonic() - begin < 3
        for one in received[::2]:
            head, *events = one.decode().split("data: ")
            assert head.startswith("HTTP/1.1 200")
            assert events[-1].startswith("[DONE]")
            assert '"code":"server_stopped"' in events[-2]
        for one in received[1::2]:
            head, _, content = one.decode().partition("\r\n\r\n")
            assert head.startswith("HTTP/1.1 500")
            assert json.loads(content)["error"]["type"] == "server_error"
        server.until(lambda: server.is_idle, 1)
    cut_off = [one for one in caplog.records if "cut off" in one.message]
    assert len(cut_off) == 1
    assert not [one for one in caplog.records if one.exc_info]


def test_asked_again_it_ends_at_once() -> None:
    with tiny_server(step_seconds=0.05, drain_timeout=60) as server:
        sock = server.post(body(stream=True), "Connection: close\r\n")
        server.until(lambda: len(server.requests) == 1)
        begin = time.monotonic()
        server.http.stop()
        server.until(lambda: server.get("/health").status_code == 503)
        assert not server.is_idle
        server.http.stop()
        assert read_all(sock).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        sock.close()
        server.http.wait()
        assert time.monotonic() - begin < 2


def test_a_client_that_does_not_read_holds_nobody_up() -> None:
    with tiny_server(drain_timeout=0.2) as server:
        sock = server.post(body(stream=True, n=64, logprobs=20))
        server.until(lambda: len(server.requests) == 64)
        server.until(lambda: server.is_idle, 60)
        begin = time.monotonic()
        server.http.stop()
        server.http.wait()
        assert time.monotonic() - begin < 12
        sock.close()


def test_news_of_an_evaluation_end_with_the_drain(tmp_path) -> None:
    subject = ScriptedSubject()
    subject.held = {"generate"}
    evaluations = Evaluations(Journal(tmp_path / "j"), {"m": subject}, EVALUATORS, QUIET)
    with tiny_server(evaluations=evaluations, drain_timeout=20) as server:
        order = {"evaluator": "echo", "model": "m", "input": ["a"]}
        job = httpx2.post(f"{server.url}/v1/evaluations", json=order).json()["id"]
        with httpx2.stream("GET", f"{server.url}/v1/evaluations/{job}/events") as news:
            lines = news.iter_lines()
            assert next(lines) == "event: progress"
            begin = time.monotonic()
            server.http.stop()
            rest = [line for line in lines if line]
        server.http.wait()
        assert time.monotonic() - begin < 3
    assert rest[-1] == ": the server stops; come back with Last-Event-ID"
    assert "event: done" not in rest


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_is_told_and_ends_the_server(caplog) -> None:
    with tiny_server(step_seconds=0.02, drain_timeout=1) as server:
        sock = server.post(body(stream=True), "Connection: close\r\n")
        server.until(lambda: len(server.steps) > 3)

        def die() -> list:
            raise SystemExit("as the test wants it")

        server.engine._step = die
        with caplog.at_level(logging.CRITICAL):
            assert b'"type":"server_error"' in read_all(sock)
        sock.close()
        assert server.http.wait() is False


def test_health_follows_the_engine_before_the_server_does(monkeypatch) -> None:
    from cast_server import http_side

    monkeypatch.setattr(http_side, "_PULSE_SECONDS", 60)
    with tiny_server() as server:
        server.engine.stop()
        answer = server.get("/health")
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "The engine does not run."


@pytest.mark.parametrize("signals", [1, 2])
def test_a_process_ends_well_after_signals(tmp_path, signals) -> None:
    """`cast-serve` itself, with a tiny model: after one signal as after two."""
    tiny_models.llama().save_pretrained(tmp_path / "tiny")
    tiny_models.byte_level_tokenizer().save_pretrained(tmp_path / "tiny")
    root = Path(harness.__file__).parents[1]
    flags = ["--model", str(tmp_path / "tiny"), "--port", "0", "--kv-cache-tokens", "512"]
    flags += ["--profile", "guess", "--drain-timeout", "60", "--evaluations-dir", ""]
    command = [sys.executable, "-m", "cast_server", *flags]
    env = {"PYTHONPATH": ":".join(str(root / one) for one in ROOTS), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=os.environ | env, stdout=subprocess.PIPE, text=True
    ) as process:
        url = ""
        for line in process.stdout:
            if line.startswith("Ready on "):
                url = line.split()[2]
            if "curl" in line:
                break
        # minutes of work for two signals, a second's for one
        ask = body(
            model="tiny", max_tokens=450 if signals == 1 else 480, n=1 if signals == 1 else 64
        )
        with httpx2.stream("POST", f"{url}/v1/completions", json=ask | {"stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            if signals == 2:
                time.sleep(0.3)
                assert httpx2.get(f"{url}/health").json() == {"status": "draining"}
                process.send_signal(signal.SIGTERM)
            text = list(lines)
        rest = process.communicate(timeout=30)[0]
    assert process.returncode == 0
    assert rest.endswith("Stopped.\n")
    assert text[-2] == "data: [DONE]"
    if signals == 1:
        assert '"finish_reason":"length"' in "".join(text)
    else:
        assert "server_stopped" in text[-4]


def test_clients_of_openai_see_a_cut_stream_as_an_error() -> None:
    with tiny_server(step_seconds=0.05, drain_timeout=0.1) as server, server.client() as client:
        stream = client.completions.create(model="tiny", prompt="a", extra_body=body(), stream=True)
        next(stream)
        server.http.stop()
        with pytest.raises(openai.APIError) as error:
            list(stream)
        assert error.value.code == "server_stopped"
