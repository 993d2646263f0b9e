from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from cast_server.config import HttpConfig
from cast_server.errors import ConfigError, OutOfDiskError
from cast_server.evaluators.base import Unit
from cast_server.evaluators.jobs.job import FINAL, Counts, Fault, Job, Progress, Status
from cast_server.evaluators.jobs.journal import Event, Journal
from cast_server.evaluators.jobs.limits import JobLimits
from cast_server.evaluators.jobs.run import Outcome, Place

JOB = Job(
    id="eval_1",
    status=Status.QUEUED,
    evaluator="echo",
    version="1",
    models=("m", "base"),
    fingerprints=({"weights": "1"}, {"weights": "2"}),
    params={"n": 1},
    limits=JobLimits(max_seconds=5.0),
    metadata={"a": "b"},
    created_at=1.5,
)


@pytest.fixture
def open_journal(journal):
    opened = []

    def start() -> Journal:
        opened.append(Journal(journal))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def named(number: int, **others) -> Job:
    return replace(JOB, id=f"eval_{number}", **others)


def test_a_job_comes_back_as_it_was(open_journal) -> None:
    journal = open_journal()
    full = replace(
        JOB,
        status=Status.FAILED,
        started_at=2.0,
        finished_at=3.0,
        progress=Progress("verify", 1, 2, 1, 0, 7, 0.5),
        counts=Counts(1, 0, 1, 0),
        error=Fault("code", "words"),
        cancel_requested=True,
    )
    assert journal.add(full, ["text \ud800"], "digest", "key")
    journal.close()
    journal = open_journal()
    assert journal.find(JOB.id) == full
    assert journal.find_key("key") == (full, "digest")
    assert journal.order(full).inputs == ("text \ud800",)
    assert journal.order(full).models == full.models


def test_a_key_belongs_to_one_evaluation(open_journal) -> None:
    journal = open_journal()
    assert journal.add(named(1), [], "a", "key")
    assert not journal.add(named(2), [], "b", "key")
    assert journal.find("eval_2") is None
    assert journal.add(named(3), [], "c", None)
    assert journal.add(named(4), [], "d", None)


@pytest.mark.parametrize("final", sorted(FINAL))
def test_final_states_never_change(open_journal, final) -> None:
    journal = open_journal()
    journal.add(JOB, [], "", None)
    journal.update(replace(JOB, status=final))
    for status in Status:
        if status is not final:
            with pytest.raises(sqlite3.IntegrityError, match="the evaluation has ended"):
                journal.update(replace(JOB, status=status))
    assert journal.find(JOB.id).status is final


def test_units_come_back_and_cannot_be_recorded_twice(open_journal) -> None:
    journal = open_journal()
    journal.add(JOB, [], "", None)
    done = [
        (Place(0, Unit("a", 0)), Outcome('{"x":1}')),
        (Place(1, Unit("a", 0)), Outcome(None, Fault("code", "words"))),
        (Place(0, Unit("b", 0)), Outcome(None, Fault("reason", "words"), is_undefined=True)),
    ]
    for number, (place, outcome) in enumerate(done, 1):
        journal.record(JOB, place, outcome, [Event(number, "item", "{}")])
    with pytest.raises(sqlite3.IntegrityError):
        journal.record(JOB, done[0][0], Outcome("{}"), [Event(4, "item", "{}")])
    assert len(journal.events(JOB.id, 0)) == 3  # the event went with its unit
    assert sorted(journal.units(JOB), key=repr) == sorted(done, key=repr)


def test_a_journal_belongs_to_one_server(open_journal, journal) -> None:
    open_journal()
    with pytest.raises(ConfigError, match=r"cannot be kept in .*--evaluations-dir"):
        Journal(journal)


def test_a_journal_of_another_format_is_left_alone(journal) -> None:
    journal.parent.mkdir()
    with sqlite3.connect(journal) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigError, match="its format is 99"):
        Journal(journal)


def test_a_file_that_is_no_journal_is_refused(journal) -> None:
    journal.parent.mkdir()
    journal.write_text("hello" * 1000)
    with pytest.raises(ConfigError, match="not a database"):
        Journal(journal)


def test_the_oldest_go_when_there_are_too_many_bytes(open_journal) -> None:
    journal = open_journal()
    for number in range(4):
        job = named(number)
        journal.add(job, [], "", None)
        if number < 3:
            ended = replace(job, status=Status.COMPLETED, finished_at=10.0 + number)
            journal.finish(ended, [], [(0, "x" * 98)], "{}")
    assert journal.superfluous(0.0, 250) == ["eval_0"]
    assert journal.superfluous(0.0, 300) == []
    assert sorted(journal.superfluous(12.0, 300)) == ["eval_0", "eval_1"]


def test_deleting_leaves_nothing_and_gives_the_room_back(open_journal, journal) -> None:
    opened = open_journal()
    opened.add(JOB, ["x" * 1000] * 1000, "", "key")
    opened.finish(replace(JOB, status=Status.COMPLETED, finished_at=1.0), [], [(0, "{}")], "{}")
    opened.delete(JOB.id)
    opened.close()
    assert journal.stat().st_size < 200_000
    with sqlite3.connect(journal) as db:
        for table in ("jobs", "inputs", "units", "items", "findings", "events"):
            assert db.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)
    db.close()


def test_a_full_disk_is_the_servers_fault(open_journal) -> None:
    journal = open_journal()
    journal._db.execute("PRAGMA max_page_count = 30").fetchall()
    with pytest.raises(OutOfDiskError, match="no room"):
        journal.add(JOB, ["x" * 1000] * 1000, "", None)
    assert journal.find(JOB.id) is None


def build(directory: Path | str | None, subjects: dict):
    from cast_server.build import build_evaluations

    own = None if directory is None else str(directory)
    return build_evaluations(HttpConfig(evaluations_dir=own), subjects)


def test_where_evaluations_are_kept(tmp_path, subject, monkeypatch, caplog) -> None:
    monkeypatch.setenv("CASTSERVE_CACHE", str(tmp_path / "cache"))
    subjects = {"org/m": subject}
    assert build(tmp_path, {}) is None
    assert build("", subjects) is None
    own, default = build(tmp_path / "own", subjects), build(None, subjects)
    assert (tmp_path / "own" / "org-m.sqlite").exists()
    assert (tmp_path / "cache" / "evaluations" / "org-m.sqlite").exists()
    with pytest.raises(ConfigError):  # asked for, but in use
        build(tmp_path / "own", subjects)
    assert build(None, subjects) is None
    assert "Evaluations are off" in caplog.text
    for evaluations in (own, default):
        evaluations.close()
