"""Evaluations of the real model: over HTTP beside chats, and by `cast-eval`."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from e2e.serving import MODEL, Server, serving

from cast_server.build import build_engine
from cast_server.config import EngineConfig
from cast_server.evaluators.offline.cli import main
from cast_server.evaluators.offline.running import evaluate
from cast_server.evaluators.registry import EVALUATORS
from cast_server.evaluators.subjects.building import served_subject

TEXTS = [
    "The history of Paris goes back to a settlement on an island in the river Seine, which later "
    "became the centre of a large and prosperous city that attracted scholars and merchants.",
    "Water is a molecule made of two hydrogen atoms and one oxygen atom. It freezes at zero "
    "degrees Celsius and boils at one hundred degrees at sea level.",
    "A good sorting algorithm compares elements and swaps them until every element is in order. "
    "Merge sort splits the list into halves, sorts each half, and merges the two halves again.",
]


def call(url: str, body: object = None, method: str | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            content = answer.read()
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error
    return json.loads(content) if content else {}


def finished(server: Server, job: dict) -> dict:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        job = call(f"{server.url}/v1/evaluations/{job['id']}")
        if job["status"] in ("completed", "failed", "canceled", "expired"):
            return job
        time.sleep(0.1)
    raise AssertionError(f"not finished: {job}")


def test_every_evaluator_works_on_the_served_model(server) -> None:
    listed = {one["id"] for one in call(f"{server.url}/v1/evaluators")["data"]}
    assert listed == set(EVALUATORS)
    params = {
        "erank": {"layers": [15, "last_normed"], "drop_first": 1},
        "representation_entropy": {"eps": 0.5},
        "token_information_gain": {"ridge": 0.1},
        "mir": {},
        "acceptance": {"depth": 3},
    }
    for evaluator, own in params.items():
        body = {"model": MODEL, "input": TEXTS, "params": own}
        result = call(f"{server.url}/v1/evaluators/{evaluator}/run", body)
        assert result["complete"]
        assert result["counts"]["errored"] == 0, result
        assert result["summary"]["num_ok"] > 0, result


def test_a_job_asks_the_model_what_it_knows_of_itself(server) -> None:
    body = {
        "evaluator": "self_knowledge",
        "model": MODEL,
        "params": {"tasks": ["total_count", "maths"], "n": 1, "generation": {"max_tokens": 24}},
    }
    job = finished(server, call(f"{server.url}/v1/evaluations", body))
    assert job["status"] == "completed", job
    results = call(f"{server.url}/v1/evaluations/{job['id']}/results")
    assert {one["task"] for one in results["summary"]["tasks"]} == {"total_count", "maths"}
    items = call(f"{server.url}/v1/evaluations/{job['id']}/items")["data"]
    assert all(item["result"]["text"] for item in items)
    call(f"{server.url}/v1/evaluations/{job['id']}", method="DELETE")


def test_cast_eval_writes_reports_and_goes_on(tmp_path: Path, capsys) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(TEXTS))
    command = ["run", "erank", f"--input={texts}", f"--out={tmp_path / 'out'}", "--dtype=float32"]
    command += ["--set", 'layers=[0, 15, "last_normed"]', "--set", "drop_first=1"]
    assert main(command) == 0
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert results["counts"] == {"total": 3, "ok": 3, "errored": 0, "undefined": 0}
    assert "layers[last_normed].erank" in (out / "report.md").read_text()
    assert (out / "report.html").read_text().count("<svg") == 2
    before = (out / "results.json").read_bytes()
    assert main(command) == 0  # all of it is in the journal
    assert (out / "results.json").read_bytes() == before
    assert main([*command[:-1], "drop_first=2"]) == 2
    assert "holds another evaluation" in capsys.readouterr().err


def _run(dtype: str, evaluator: str, params: dict, texts: list[str], out: Path, **more: str):
    config = EngineConfig(dtype=dtype, **more)
    kind = EVALUATORS[evaluator].params_type
    return asyncio.run(evaluate([config], evaluator, kind.model_validate(params), texts, out))


@pytest.mark.slow
def test_bfloat16_changes_erank_by_less_than_a_hundredth(tmp_path: Path) -> None:
    eranks = [
        [
            json.loads(item)["result"]["erank"]
            for item in _run(dtype, "erank", {}, TEXTS, tmp_path / dtype).items
        ]
        for dtype in ("float32", "bfloat16")
    ]
    for wide, narrow in zip(*eranks, strict=True):
        assert narrow == pytest.approx(wide, rel=0.01)


@pytest.mark.slow
def test_speculation_changes_no_item_of_a_self_knowledge_run(tmp_path: Path) -> None:
    """In float32, where speculation leaves every token equal."""
    params = {"n": 2, "generation": {"max_tokens": 64}}
    items = [
        _run("float32", "self_knowledge", params, [], tmp_path / policy[:3], policy=policy).items
        for policy in ("off", "tree:8")
    ]
    assert len(items[0]) > 20
    assert items[0] == items[1]


@pytest.mark.slow
def test_texts_side_by_side_are_read_as_if_alone() -> None:
    config = EngineConfig(dtype="float32", policy="off", profile="guess")
    engine = build_engine(config)
    engine.start()
    subject = served_subject(engine, config)

    async def both() -> None:
        ids = [subject.tokenize(text) for text in TEXTS]
        together = await asyncio.gather(*(subject.read(one, ["last_normed"]) for one in ids))
        for one, reading in zip(ids, together, strict=True):
            alone = await subject.read(one, ["last_normed"])
            assert (alone.hidden["last_normed"] == reading.hidden["last_normed"]).all()
            assert (alone.logprobs_P == reading.logprobs_P).all()

    asyncio.run(both())
    engine.stop()


@pytest.mark.slow
def test_chats_hardly_notice_a_job(tmp_path: Path) -> None:
    """Median latency of short chats, with and without a job in turns: grows by less than 30 %."""
    with serving(tmp_path / "log.txt", "--evaluations-dir", str(tmp_path / "jobs")) as server:
        url = f"{server.url}/v1/chat/completions"

        def latencies(count: int, place: int) -> list[float]:
            taken = []
            for number in range(count):
                question = f"Tell me something about the number {100 * place + number}."
                messages = [{"role": "user", "content": question}]
                body = {"model": MODEL, "messages": messages, "max_tokens": 24, "temperature": 0}
                begin = time.perf_counter()
                call(url, body)
                taken.append(time.perf_counter() - begin)
            return taken

        latencies(2, 0)
        alone: list[float] = []
        beside: list[float] = []
        for turn in range(3):
            alone += latencies(5, 2 * turn + 1)
            body = {"evaluator": "erank", "model": MODEL, "input": TEXTS * 200, "params": {}}
            job = call(f"{server.url}/v1/evaluations", body)
            time.sleep(1)
            beside += latencies(5, 2 * turn + 2)
            state = call(f"{server.url}/v1/evaluations/{job['id']}")
            assert state["status"] == "in_progress"
            assert state["progress"]["done"] > 0
            call(f"{server.url}/v1/evaluations/{job['id']}/cancel", {})
            assert finished(server, job)["status"] == "canceled"
        growth = statistics.median(beside) / statistics.median(alone)
        print(f"median latency beside a job: {growth:.2f} times that without")
        assert growth < 1.3


@pytest.mark.slow
def test_two_hundred_texts_with_a_twin_in_three_minutes(tmp_path: Path) -> None:
    texts = [f"Note {number}. {TEXTS[number % 3]}" for number in range(200)]
    baseline = {"mode": "random_init", "seeds": [0], "std": 0.0417}
    begin = time.perf_counter()
    done = _run("bfloat16", "erank", {"baseline": baseline}, texts, tmp_path)
    seconds = time.perf_counter() - begin
    print(f"200 texts with an untrained twin: {seconds:.0f} s")
    assert done.findings["counts"]["ok"] == 200
    assert seconds < 180
