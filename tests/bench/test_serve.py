"""`cast-bench serve` against a server on a real socket whose times are known exactly."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scripted_server import MODEL, scripted

from cast_bench import cli
from cast_bench.serve.arrivals import arrivals

ROOT = Path(__file__).parents[2]
SLACK = 60.0  # milliseconds by which a busy machine may be late; nothing is ever early
STEADY = {"first": 0.1, "gaps": [0.03] * 5}
BRIEF = {"first": 0.01}


@pytest.fixture
def server():
    with scripted() as server:
        yield server


@pytest.fixture
def measure(server, tmp_path):
    """Runs the command on prompts; its exit status and the points that it wrote."""

    def run(prompts: list[dict[str, Any]], *flags: str) -> tuple[int, list[dict[str, Any]]]:
        dataset, report = tmp_path / "questions.jsonl", tmp_path / "report.json"
        lines = [json.dumps({"turns": [json.dumps(prompt)]}) for prompt in prompts]
        dataset.write_text("\n".join(lines))
        words = ["serve", "--base-url", server.url, "--dataset", str(dataset), *flags]
        words += [] if "--num-warmups" in flags else ["--num-warmups", "0"]
        words += [] if "--num-prompts" in flags else ["--num-prompts", str(len(prompts))]
        status = cli.main([*words, "--json", str(report)])
        return status, json.loads(report.read_text())["points"]

    return run


def near(value: float, exact: float, slack: float = SLACK) -> bool:
    return exact - 1 <= value <= exact + slack


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_latencies_are_what_the_server_made_them(measure, endpoint) -> None:
    status, [point] = measure([STEADY] * 3, "--endpoint", endpoint, "--max-concurrency", "1")
    assert status == 0
    assert (point["completed"], point["failed"]) == (3, 0)
    assert near(point["median_ttft_ms"], 100)
    assert near(point["median_tpot_ms"], 30, 12)
    assert near(point["median_itl_ms"], 30, 12)
    assert near(point["median_e2el_ms"], 250)
    assert point["total_output_tokens"] == 18
    assert point["total_input_tokens"] == 21
    assert near(point["duration"] * 1000, 750, 5 * SLACK)
    assert point["output_throughput"] == pytest.approx(18 / point["duration"])
    assert point["request_throughput"] == pytest.approx(3 / point["duration"])


@pytest.mark.parametrize(
    ("told", "itl", "unit"),
    [("each", 22.5, "tokens"), ("llama.cpp", 22.5, "tokens"), ("end", 60.0, "chunks")],
)
def test_tokens_that_come_together_share_their_time(measure, told, itl, unit) -> None:
    script = {"first": 0.02, "gaps": [0.06] * 3, "tokens": [1, 3, 1, 4], "told": told}
    _, [point] = measure([script])
    assert point["itl_counted_in"] == unit
    assert near(point["mean_itl_ms"], itl, 12)
    assert near(point["mean_icl_ms"], 60, 30)
    assert near(point["mean_tpot_ms"], 22.5, 12)
    assert point["total_output_tokens"] == 9


def test_chunks_are_counted_where_nothing_is_told_and_that_is_said(measure, capsys) -> None:
    _, [point] = measure([{"first": 0.01, "gaps": [0.02] * 3, "told": "never"}])
    assert point["total_output_tokens"] == 4
    assert point["total_input_tokens"] is None
    assert point["output_tokens_counted_in"] == point["itl_counted_in"] == "chunks"
    told = capsys.readouterr().out
    assert "ITL is per chunk" in told
    assert "count chunks" in told


def test_usage_at_the_end_suffices_where_each_chunk_is_a_token(measure) -> None:
    _, [point] = measure([STEADY | {"told": "end"}])
    assert point["itl_counted_in"] == "tokens"


def test_every_failure_has_a_name_and_is_in_no_other_figure(measure, capsys) -> None:
    bad = [{"status": 429}, {"status": 500}, {"status": 500}]
    bad += [BRIEF | {"break": how} for how in ("drop", "error", "rubbish", "short")]
    bad += [{"first": 5.0}, {"first": 0.0, "tokens": [0], "text": ""}]
    status, [point] = measure([STEADY, *bad], "--timeout", "1")
    assert status == 1
    counts = {name: told["count"] for name, told in point["failures"].items()}
    assert counts == {
        "HTTP 429": 1,
        "HTTP 500": 2,
        "connection dropped": 1,
        "error in stream": 1,
        "unreadable event": 1,
        "answer cut short": 1,
        "timeout": 1,
        "no token": 1,
    }
    assert (point["completed"], point["failed"]) == (1, 9)
    assert point["total_output_tokens"] == 6
    assert near(point["mean_ttft_ms"], 100)
    captured = capsys.readouterr()
    assert "FAILED 2 times: HTTP 500: no: 500" in captured.out
    assert "9 requests failed, more than --max-failures 0" in captured.err


class OnePerConnection(socketserver.StreamRequestHandler):
    """Answers once, and closes the connection when it is used again."""

    def handle(self) -> None:
        length = 0
        while (line := self.rfile.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.rfile.read(length)
        chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]}
        events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: "
        self.wfile.write(f"{head}{len(events)}\r\n\r\n".encode() + events)
        self.rfile.read(1)


def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure(server, measure) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OnePerConnection) as closing:
        threading.Thread(target=closing.serve_forever, daemon=True).start()
        server.url = f"http://127.0.0.1:{closing.server_address[1]}"
        flags = ("--model", "any", "--max-concurrency", "1", "--plain-usage")
        status, [point] = measure([BRIEF] * 3, *flags)
        closing.shutdown()
    assert (status, point["completed"], point["failed"]) == (0, 3, 0)


def test_failures_may_be_allowed(measure) -> None:
    status, _ = measure([BRIEF, {"status": 500}], "--max-failures", "1")
    assert status == 0


def test_goodput_counts_what_keeps_every_objective(measure, capsys) -> None:
    prompts = [BRIEF, {"first": 0.3}, {"first": 0.01, "gaps": [0.3]}, {"status": 500}]
    flags = ["--goodput", "ttft:150", "tpot:150", "--max-failures", "1", "--fail-under"]
    status, [point] = measure(prompts, *flags, "0.25")
    assert status == 0
    assert point["good_share"] == 0.25
    assert point["request_goodput"] == pytest.approx(1 / point["duration"])
    assert point["goodput"] == {"ttft": 150.0, "tpot": 150.0}
    status, _ = measure(prompts, *flags, "0.26")
    assert status == 1
    assert "25.0% within --goodput, less than --fail-under 0.26" in capsys.readouterr().err


def test_an_open_loop_sends_by_the_clock(server, measure) -> None:
    measure([{"first": 0.5}] * 12, "--request-rate", "30", "--seed", "4")
    found = np.subtract(server.arrived, server.arrived[0])
    assert np.abs(found - arrivals(12, 30, 1.0, 4)).max() < 2 * SLACK / 1000
    assert server.most > 4  # answers take 15 times as long as it is between requests


def test_a_closed_loop_keeps_its_places_full_and_its_connections(server, measure) -> None:
    _, [point] = measure([{"first": 0.05}] * 9, "--max-concurrency", "3")
    assert server.most == 3
    assert len(server.clients) == 3
    assert 2 < point["mean_concurrency"] <= 3


def test_a_sweep_measures_every_combination(server, measure, capsys) -> None:
    flags = ["--request-rate", "50", "inf", "--max-concurrency", "1", "2", "--num-prompts", "3"]
    status, points = measure([BRIEF | {"text": f"{i}"} for i in range(12)], *flags)
    assert status == 0
    found = [(point["request_rate"], point["max_concurrency"]) for point in points]
    assert found == [(50.0, 1), (50.0, 2), ("inf", 1), ("inf", 2)]
    asked = {body["messages"][0]["content"] for body in server.bodies}
    assert len(asked) == len(server.bodies) == 12  # no point is helped by an earlier one's prefixes
    assert "12 of 12 requests answered; best at " in capsys.readouterr().out


def test_drafts_are_summed_where_a_server_tells_of_them(measure, capsys) -> None:
    drafts = {"num_draft_tokens": 10, "num_accepted_draft_tokens": 4, "num_spec_steps": 8}
    _, [point] = measure([BRIEF | {"drafts": drafts}] * 2)
    assert point["spec_decode"]["draft_acceptance_rate"] == 0.4
    assert point["spec_decode"]["mean_acceptance_length"] == 1.5
    assert "8 of 20 drafted tokens accepted (40.0%), 1.50 tokens a step." in capsys.readouterr().out


def test_requests_say_what_was_asked_for_and_the_key_stays_secret(
    server, measure, tmp_path, capsys
) -> None:
    flags = ["--api-key", "sesame", "--extra-body", '{"top_k": 3}', "--output-len", "5"]
    measure([BRIEF] * 2, *flags, "--seed", "8", "--ignore-eos", "--save-detailed")
    body = server.bodies[0]
    assert body["model"] == MODEL  # as the server lists it
    wanted = {"max_tokens": 5, "temperature": 0.0, "stream": True, "top_k": 3, "ignore_eos": True}
    assert body | wanted == body
    assert {body["seed"] for body in server.bodies} == {8, 9}
    assert server.headers[0][b"authorization"] == b"Bearer sesame"
    report = (tmp_path / "report.json").read_text()
    assert "Infinity" not in report  # which is no JSON
    assert "sesame" not in report + capsys.readouterr().out
    requests = json.loads(report)["points"][0]["requests"]
    assert [len(one["chunk_seconds"]) for one in requests] == [1, 1]


def test_a_line_separator_in_a_text_ends_no_event(measure) -> None:
    status, _ = measure([BRIEF | {"text": "one\u2028two\x85three"}])
    assert status == 0


def test_nobody_there_is_one_sentence(capsys) -> None:
    assert cli.main(["serve", "--base-url", "http://127.0.0.1:9"]) == 2
    assert "http://127.0.0.1:9/v1/models names no model" in capsys.readouterr().err
    asked = ["serve", "--base-url", "http://127.0.0.1:9", "--model", "m"]
    assert cli.main(asked) == 2
    assert "does not answer: no connection" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--fail-under", "0.5"], "--fail-under needs --goodput"),
        (["--save-detailed"], "--save-detailed needs --json"),
        (["--base-url", "localhost:8000"], "must begin like http://127.0.0.1:8000"),
        (["--dataset", "nowhere.jsonl"], "--dataset nowhere.jsonl"),
        (["--dataset", "random"], "--dataset random: only texts can be sent"),
    ],
)
def test_a_wrong_setting_is_told(flags, told, capsys) -> None:
    assert cli.main(["serve", *flags]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("word", ["ttft", "ttft:0", "itl:5", "ttft:x"])
def test_an_unknown_objective_is_told(word, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--goodput", word])
    assert f"{word!r} is no objective" in capsys.readouterr().err


# A shell's background job ignores interrupts, and so would what it starts.
INTERRUPTIBLE = """
import signal, sys
from cast_bench.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_leaves_a_readable_report(server, tmp_path) -> None:
    dataset, report = tmp_path / "questions.jsonl", tmp_path / "report.json"
    dataset.write_text("\n".join([json.dumps({"turns": [json.dumps({"first": 0.2})]})] * 20))
    command = [sys.executable, "-c", INTERRUPTIBLE, "serve", "--base-url", server.url]
    command += ["--dataset", str(dataset), "--num-prompts", "500", "--max-concurrency", "2"]
    roots = ("bench", "server", "drafters", "profiler", "kernels")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in roots)}
    command += ["--json", str(report)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while len(server.bodies) < 6:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    [point] = json.loads(report.read_text())["points"]
    assert point["interrupted"]
    assert point["completed"] >= 3
    assert point["failed"] == 0
    assert 1 <= point["unfinished"] <= 2
    assert point["completed"] + point["unfinished"] + point["unsent"] == 500
    assert b"INTERRUPTED" in told


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_arrivals_are_gamma_distributed(burstiness) -> None:
    gaps = np.diff(arrivals(20_001, 5.0, burstiness, seed=1))
    assert gaps.mean() == pytest.approx(0.2, rel=0.05)
    assert gaps.var() == pytest.approx(0.04 / burstiness, rel=0.1)
    exact = stats.gamma(burstiness, scale=0.2 / burstiness)
    assert stats.kstest(gaps, exact.cdf).pvalue > 0.01


def test_arrivals_of_a_seed_are_the_same_and_poisson_by_default() -> None:
    times = arrivals(5_000, 10.0, 1.0, seed=3)
    assert (times == arrivals(5_000, 10.0, 1.0, seed=3)).all()
    assert (times != arrivals(5_000, 10.0, 1.0, seed=4)).any()
    counts = np.bincount(times.astype(int))[:-1]  # in each second: mean and variance are the rate
    assert counts.mean() == pytest.approx(10, rel=0.05)
    assert counts.var() == pytest.approx(10, rel=0.2)


@given(
    st.integers(1, 50),
    st.floats(0.01, 1e4) | st.just(float("inf")),
    st.floats(0.05, 20),
    st.integers(0, 2**32),
)
def test_arrivals_ascend_from_zero(count, rate, burstiness, seed) -> None:
    times = arrivals(count, rate, burstiness, seed)
    assert times.shape == (count,)
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()
    assert rate != float("inf") or not times.any()
