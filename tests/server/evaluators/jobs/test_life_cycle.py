"""Every state of an evaluation, over HTTP."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from evaluations_at_work import QUIET

from cast_server.errors import ContextLengthError


def in_phase(phase: str):
    return lambda now: now["progress"]["phase"] == phase


def results(client, job, **query):
    return client.get(f"/v1/evaluations/{job['id']}/results", params=query)


def test_from_queued_to_completed(client, subject) -> None:
    subject.held = {"generate", "verify"}
    job = client.create(input=["abc", "de"], metadata={"run": "a"})
    assert job["object"] == "evaluation"
    assert (job["status"], job["error"], job["finished_at"]) == ("queued", None, None)
    assert job["params"]["summary"] == 1.0  # defaults are spelled out
    assert job["fingerprints"] == {"m": {"weights": "sha256:1"}}
    now = client.until(job, in_phase("generate"))
    assert (now["status"], now["queue_position"]) == ("in_progress", None)
    assert now["progress"] | {"eta_seconds": None} == {
        "phase": "generate",
        "done": 0,
        "total": 4,
        "failed": 0,
        "undefined": 0,
        "tokens": 0,
        "eta_seconds": None,
    }
    subject.held = {"verify"}
    now = client.until(job, in_phase("verify"))
    assert now["progress"]["done"] == 2
    assert now["progress"]["eta_seconds"] is not None
    # prompts and answers: "generate abc" + "abc", "generate de" + "de"
    assert now["progress"]["tokens"] == 12 + 3 + 11 + 2
    subject.held = set()
    ended = client.end(job)
    assert ended["status"] == "completed"
    assert ended["result_counts"] == {"total": 2, "ok": 2, "errored": 0, "undefined": 0}
    assert ended["progress"]["done"] == 4
    assert ended["created_at"] <= ended["started_at"] <= ended["finished_at"]
    assert results(client, job).json() == {
        "object": "evaluation.results",
        "evaluation": job["id"],
        "status": "completed",
        "evaluator": "echo",
        "evaluator_version": "1",
        "model": "m",
        "baseline_model": None,
        "fingerprints": {"m": {"weights": "sha256:1"}},
        "params": job["params"],
        "complete": True,
        "counts": ended["result_counts"],
        "summary": {"num_items": 2, "num_undefined": 0, "mean_length": 2.5, "odd": 1.0},
        "baseline_summary": None,
        "comparison": None,
        "warnings": [],
    }


def test_units_run_side_by_side_within_a_bound(client, subject) -> None:
    subject.seconds = 0.005
    client.end(client.create(params={"repeats": 40}))
    assert subject.most_running == 8
    first_check = next(i for i, asked in enumerate(subject.begun) if asked.startswith("verify"))
    assert first_check == 40


def test_one_evaluation_at_a_time_and_the_others_wait_in_order(client, subject) -> None:
    subject.held = {"generate"}
    first, second, third = (client.create(params={"repeats": 1}) for _ in range(3))
    client.until(first, in_phase("generate"))
    assert [client.job(job)["queue_position"] for job in (first, second, third)] == [None, 1, 2]
    assert len(subject.begun) == 1
    subject.held = set()
    ends = [client.end(job)["finished_at"] for job in (first, second, third)]
    assert ends == sorted(ends)


def test_two_models_are_compared_in_pairs(client, subject, baseline) -> None:
    baseline.failing["generate 4"] = ContextLengthError("too long")
    ended = client.end(client.create(baseline_model="base", params={"repeats": 5}))
    assert ended["result_counts"] == {"total": 10, "ok": 9, "errored": 1, "undefined": 0}
    assert len(subject.begun) == 10
    found = results(client, ended).json()
    # generated texts have one letter, the baseline's one more
    assert found["summary"]["mean_length"] == 1.0
    assert found["baseline_summary"]["mean_length"] == 2.0
    assert found["comparison"]["length"] == {
        "pairs": 4,
        "left_out": 1,
        "mean": 1.0,
        "baseline_mean": 2.0,
        "difference": -1.0,
        "interval": [-1.0, -1.0],
        "reason": None,
    }
    assert found["comparison"].keys() == {"length", "half"}
    assert found["fingerprints"] == {"m": {"weights": "sha256:1"}, "base": {"weights": "sha256:2"}}
    items = client.items(ended)["data"]
    assert [(item["index"], item["model"]) for item in items[:3]] == [
        (0, "m"),
        (0, "base"),
        (1, "m"),
    ]


def test_items_that_fail_are_recorded(client, subject) -> None:
    subject.failing = {
        "generate 1": ContextLengthError("too long for this model", "input"),
        "verify 2": RuntimeError("secret"),
    }
    params = {"repeats": 6, "undefined": [3], "not_finite": [4]}
    ended = client.end(client.create(params=params))
    assert ended["status"] == "completed"
    assert ended["result_counts"] == {"total": 6, "ok": 2, "errored": 3, "undefined": 1}
    items = {item["index"]: item for item in client.items(ended)["data"]}
    codes = {i: item["error"] and item["error"]["code"] for i, item in items.items()}
    assert codes == {
        0: None,
        1: "context_length_exceeded",
        2: "internal_error",
        3: "no_echo",
        4: "not_finite",
        5: None,
    }
    assert "secret" not in str(items)
    assert [items[i]["status"] for i in (0, 1, 3)] == ["ok", "errored", "undefined"]
    assert all(item["complete"] for item in items.values())
    assert items[2]["result"]["text"] == "2"  # what there is of it
    found = results(client, ended).json()
    assert found["summary"]["num_items"] == 2
    assert {warning["index"] for warning in found["warnings"]} == {1, 2, 4}
    # two units each but for the one whose second one failed
    assert ended["progress"]["failed"] == 5
    assert ended["progress"]["undefined"] == 1 + 1


def test_an_item_that_fails_may_fail_the_evaluation(client, subject) -> None:
    subject.failing = {"verify 2": ContextLengthError("too long")}
    job = client.create(params={"repeats": 30}, limits={"on_item_error": "fail"})
    ended = client.end(job)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "item_failed")
    assert "Item 2 failed: too long" in ended["error"]["message"]
    found = results(client, job).json()
    assert (found["complete"], found["status"]) == (False, "failed")


def test_the_engines_clients_come_first(client, subject) -> None:
    subject.overloads = 1
    ended = client.end(client.create(params={"repeats": 2}))
    assert ended["result_counts"]["ok"] == 2
    assert len(subject.begun) == 5


@pytest.mark.parametrize("phase", ["generate", "verify"])
def test_cancelled_while_units_run(client, subject, phase) -> None:
    subject.held = {phase}
    job = client.create(params={"repeats": 20})
    client.until(job, lambda now: now["progress"]["phase"] == phase and subject.running == 8)
    begun = time.monotonic()
    assert client.cancel(job)["status"] in ("canceling", "canceled")
    ended = client.end(job)
    assert time.monotonic() - begun < 1.0
    assert (ended["status"], ended["cancel_requested"]) == ("canceled", True)
    assert len(subject.aborted) == 8
    assert subject.running == 0
    items = client.items(job)["data"]
    assert len(items) == (20 if phase == "verify" else 0)
    assert not any(item["complete"] for item in items)
    assert ended["result_counts"] == {"total": 20, "ok": 0, "errored": 0, "undefined": 0}
    assert client.cancel(job) == ended  # once more changes nothing


def test_canceling_lasts_until_the_last_unit_has_let_go(client, subject) -> None:
    subject.held, subject.abort_seconds = {"generate"}, 0.9
    job = client.create(params={"repeats": 2}, limits={"max_seconds": 0.8})
    client.until(job, lambda _: subject.running == 2)
    assert client.cancel(job)["status"] == "canceling"
    now = client.job(job)
    assert (now["status"], now["cancel_requested"], now["finished_at"]) == ("canceling", True, None)
    assert client.cancel(job)["status"] == "canceling"
    assert client.delete(f"/v1/evaluations/{job['id']}").status_code == 409
    # whose time runs out meanwhile, it has been cancelled all the same
    ended = client.end(job)
    assert (ended["status"], ended["error"]) == ("canceled", None)


def test_cancelled_while_it_waits(client, subject) -> None:
    subject.held = {"generate"}
    first, second = client.create(params={"repeats": 1}), client.create(params={"repeats": 2})
    client.until(first, in_phase("generate"))
    ended = client.cancel(second)
    assert (ended["status"], ended["started_at"]) == ("canceled", None)
    assert client.items(second)["data"] == []
    subject.held = set()
    client.end(first)
    assert "generate 1" not in subject.begun


def test_cancelled_while_it_is_summed_up(client) -> None:
    job = client.create(params={"repeats": 2, "summary_seconds": 1.5})
    client.until(job, in_phase("summarise"))
    begun = time.monotonic()
    client.cancel(job)
    ended = client.end(job)
    assert time.monotonic() - begun < 1.0
    assert ended["status"] == "canceled"
    assert [item["complete"] for item in client.items(job)["data"]] == [True, True]


def test_what_has_ended_stays_so(client) -> None:
    ended = client.end(client.create(params={"repeats": 1}))
    assert client.cancel(ended) == ended
    assert client.job(ended) == ended


def test_time_runs_out_for_what_runs_and_for_what_waits(client, subject) -> None:
    subject.held = {"verify"}
    running = client.create(params={"repeats": 2}, limits={"max_seconds": 0.8})
    waiting = client.create(params={"repeats": 2}, limits={"max_seconds": 0.7})
    ended = client.end(running)
    assert (ended["status"], ended["error"]["code"]) == ("expired", "max_seconds_exceeded")
    assert ended["expires_at"] == pytest.approx(ended["created_at"] + 0.8)
    assert subject.running == 0
    assert len(client.items(running)["data"]) == 2
    assert client.end(waiting)["status"] == "expired"
    assert len([asked for asked in subject.begun if "verify" in asked]) == 2


def test_what_waits_expires_behind_one_that_runs_on(client, subject) -> None:
    subject.held = {"verify"}
    running = client.create(params={"repeats": 2})
    waiting = client.create(params={"repeats": 2}, limits={"max_seconds": 0.1})
    ended = client.end(waiting)
    assert (ended["status"], ended["started_at"]) == ("expired", None)
    assert client.job(running)["status"] == "in_progress"


def test_tokens_run_out(client, subject) -> None:
    job = client.create(params={"repeats": 100}, limits={"max_tokens": 100})
    ended = client.end(job)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "max_tokens_exceeded")
    # at most an answer more for each of the eight side by side; each takes 11 to 13
    assert 100 <= ended["progress"]["tokens"] < 100 + 8 * 13


def test_a_summary_that_is_no_json_fails_the_evaluation(client, monkeypatch) -> None:
    import evaluations_at_work as parts

    monkeypatch.setattr(
        parts.Echo,
        "summarise",
        lambda *_: parts.EchoSummary(num_items=0, num_undefined=0, mean_length=float("nan"), odd=0),
    )
    ended = client.end(client.create(params={"repeats": 1}))
    assert (ended["status"], ended["error"]["code"]) == ("failed", "not_finite")
    assert "summary.mean_length" in ended["error"]["message"]


def test_a_bug_in_an_evaluator_fails_its_evaluation_only(client, monkeypatch) -> None:
    import evaluations_at_work as parts

    with monkeypatch.context() as patch:
        patch.setattr(parts.Echo, "summarise", lambda *_: 1 / 0)
        ended = client.end(client.create(params={"repeats": 1}))
    assert (ended["status"], ended["error"]["code"]) == ("failed", "internal_error")
    assert client.end(client.create(params={"repeats": 1}))["status"] == "completed"


def test_only_so_many_may_wait(client, subject) -> None:
    subject.held = {"generate"}
    first = client.create(params={"repeats": 1})
    client.until(first, in_phase("generate"))
    for _ in range(3):
        client.create(params={"repeats": 1})
    refused = client.post("/v1/evaluations", json={"evaluator": "echo", "model": "m", "input": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) > 0


def test_a_key_makes_one_evaluation(client, subject) -> None:
    subject.held = {"generate"}

    def post(**fields):
        body = {"evaluator": "echo", "model": "m", "params": {"repeats": 1}, **fields}
        return client.post("/v1/evaluations", json=body, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: post(), range(4)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/v1/evaluations").json()["data"]) == 1
    other = post(metadata={"run": "b"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_mismatch")
    subject.held = set()
    ended = client.end(answers[0].json())
    assert post().json() == ended


def test_a_key_outlives_a_restart(serve) -> None:
    body = {"evaluator": "echo", "model": "m", "params": {"repeats": 1}}
    ids = []
    for _ in range(2):
        with serve() as client:
            answer = client.post("/v1/evaluations", json=body, headers={"Idempotency-Key": "k"})
            ids.append(answer.json()["id"])
    assert ids[0] == ids[1]


def test_deleting_what_has_ended(client, subject) -> None:
    subject.held = {"generate"}
    job = client.create(params={"repeats": 1})
    url = f"/v1/evaluations/{job['id']}"
    refused = client.delete(url)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "still_running")
    client.cancel(job)
    client.end(job)
    assert client.delete(url).json() == {
        "id": job["id"],
        "object": "evaluation.deleted",
        "deleted": True,
    }
    for path in ("", "/results", "/items", "/events"):
        gone = client.get(url + path)
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "evaluation_not_found")


def test_results_before_the_end(client, subject) -> None:
    subject.held = {"generate"}
    job = client.create(input=["abc", "de"])
    waiting = client.create(input=["a"])
    client.until(job, in_phase("generate"))
    early = results(client, job)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "not_finished")
    assert results(client, waiting, partial=True).status_code == 409
    subject.held = {"verify"}
    client.until(job, in_phase("verify"))
    found = results(client, job, partial=True).json()
    assert (found["complete"], found["summary"]) == (False, None)
    assert [item["result"]["text"] for item in client.items(job)["data"]] == ["abc", "de"]
    assert client.items(waiting)["data"] == []


def test_a_large_input_is_worked_through(serve) -> None:
    with serve(replace(QUIET, max_items=3000)) as client:
        texts = ["x" * 300] * 1500
        ended = client.end(client.create(input=texts))
        assert ended["result_counts"]["ok"] == 1500
        one_more = client.post(
            "/v1/evaluations", json={"evaluator": "echo", "model": "m", "input": ["x"] * 3001}
        )
        assert one_more.status_code == 413
        assert one_more.json()["error"]["param"] == "input"
