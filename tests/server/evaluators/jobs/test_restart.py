"""A server that is killed goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import evaluations_at_work
from evaluations_at_work import EVALUATORS, QUIET, Client, Echo

from cast_server.evaluators.jobs.job import Status
from cast_server.evaluators.jobs.journal import Journal

NUM_ITEMS = 40


@contextmanager
def killed_server(journal, units, seconds: float):
    process = subprocess.Popen(
        [sys.executable, evaluations_at_work.__file__, str(journal), str(units), str(seconds)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        with Client(base_url=process.stdout.readline().strip(), timeout=10) as client:
            yield client
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_killed_server_goes_on_and_repeats_no_unit(journal, tmp_path, serve, subject) -> None:
    units = tmp_path / "units"
    with killed_server(journal, units, 0.01) as client:
        job = client.create(params={"repeats": NUM_ITEMS}, metadata={"run": "a"})
        waiting = client.create(params={"repeats": 1})
        client.until(job, lambda now: now["progress"]["done"] > NUM_ITEMS + 5)
    before = units.read_text().split("\n")[:-1]
    subject.held = {"generate", "verify"}
    with serve() as client:
        resumed = client.until(job, lambda now: subject.begun)
        done = resumed["progress"]["done"]
        # what was begun and not recorded when the kill came: at most the two side by side
        assert NUM_ITEMS + 5 < done <= len(before) <= done + 2
        assert resumed["status"] == "in_progress"
        assert resumed["metadata"] == {"run": "a"}
        subject.held = set()
        ended = client.end(job)
        assert ended["status"] == "completed"
        assert ended["progress"]["done"] == 2 * NUM_ITEMS
        results = client.get(f"/v1/evaluations/{job['id']}/results").json()
        items = client.items(job)["data"]
        assert client.end(waiting)["status"] == "completed"
    mine = [asked for asked in subject.begun if subject.begun.index(asked) < 2 * NUM_ITEMS - done]
    every = {f"{phase} {i}" for phase in ("generate", "verify") for i in range(NUM_ITEMS)}
    assert set(before) | set(mine) == every
    assert len(mine) == 2 * NUM_ITEMS - done
    assert len(set(before) & set(mine)) == len(before) - done  # only those cut off by the kill
    assert [item["result"]["text"] for item in items] == [str(i) for i in range(NUM_ITEMS)]
    assert results["summary"]["num_items"] == NUM_ITEMS
    assert [warning["code"] for warning in results["warnings"]] == ["resumed"]


def test_an_orderly_stop_keeps_evaluations_too(serve, subject) -> None:
    subject.held = {"verify"}
    with serve() as client:
        job = client.create(params={"repeats": 3})
        client.until(job, lambda now: now["progress"]["phase"] == "verify")
    assert len(subject.aborted) == 3
    subject.held = set()
    with serve() as client:
        assert client.end(job)["status"] == "completed"
    assert subject.begun.count("generate 0") == 1


def test_a_cancellation_survives_the_kill_that_cut_it_off(serve, subject, journal) -> None:
    subject.held = {"verify"}
    with serve() as client:
        job = client.create(params={"repeats": 3})
        client.until(job, lambda now: now["progress"]["phase"] == "verify")
    opened = Journal(journal)
    stored = opened.find(job["id"])
    opened.update(replace(stored, status=Status.CANCELING, cancel_requested=True))
    opened.close()
    with serve() as client:
        assert client.end(job)["status"] == "canceled"
        assert len(client.items(job)["data"]) == 3


def test_another_model_does_not_finish_what_one_began(serve, subject) -> None:
    subject.held = {"verify"}
    with serve() as client:
        job = client.create(params={"repeats": 3})
        client.until(job, lambda now: now["progress"]["phase"] == "verify")
    subject.fingerprint = {"weights": "sha256:other"}
    with serve() as client:
        ended = client.end(job)
        assert (ended["status"], ended["error"]["code"]) == ("failed", "model_changed")
        assert len(client.items(job)["data"]) == 3
    with serve(subjects={}) as client:
        assert client.job(job) == ended


def test_a_model_that_is_swapped_while_it_is_evaluated_fails_the_job(client, subject) -> None:
    subject.held = {"verify"}
    job = client.create(params={"repeats": 9})
    client.until(job, lambda now: now["progress"]["phase"] == "verify")
    subject.fingerprint = {"weights": "sha256:other"}
    subject.held = set()
    ended = client.end(job)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "model_changed")


def test_another_version_of_an_evaluator_does_not_go_on(serve, subject, monkeypatch) -> None:
    subject.held = {"verify"}
    with serve() as client:
        job = client.create(params={"repeats": 3})
        client.until(job, lambda now: now["progress"]["phase"] == "verify")

    class Newer(Echo):
        version = "2"

    monkeypatch.setattr(evaluations_at_work, "EVALUATORS", {**EVALUATORS, "echo": Newer()})
    with serve() as client:
        ended = client.end(job)
        assert (ended["status"], ended["error"]["code"]) == ("failed", "evaluator_changed")
        answer = client.get(f"/v1/evaluations/{job['id']}/results")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "evaluator_changed")


def test_what_is_old_is_deleted(serve) -> None:
    shift = 0.0
    limits = replace(QUIET, keep_seconds=100.0)
    with serve(limits, now=lambda: time.time() + shift) as client:
        old = client.end(client.create(params={"repeats": 1}))
        shift = 90.0
        new = client.end(client.create(params={"repeats": 1}))
        shift = 150.0
        deadline = time.monotonic() + 5
        while client.get(f"/v1/evaluations/{old['id']}").status_code != 404:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.job(new)["status"] == "completed"


def test_what_takes_too_much_room_is_deleted(serve) -> None:
    with serve(replace(QUIET, keep_bytes=3000)) as client:
        first = client.end(client.create(input=["x" * 1000]))
        second = client.end(client.create(input=["x" * 1000]))
        deadline = time.monotonic() + 5
        while client.get(f"/v1/evaluations/{first['id']}").status_code != 404:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.job(second)["status"] == "completed"
