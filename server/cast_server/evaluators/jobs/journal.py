"""Evaluations on disk. Every finished unit is committed, so a killed server goes on from here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Final

from cast_server.errors import ConfigError, OutOfDiskError
from cast_server.evaluators.base import Unit
from cast_server.evaluators.jobs.job import FINAL, Counts, Fault, Job, Order, Progress, Status
from cast_server.evaluators.jobs.limits import JobLimits
from cast_server.evaluators.jobs.run import Outcome, Place
from cast_server.evaluators.jobs.strict_json import dumps

_FORMAT = 1
_FINAL_NAMES: Final = ", ".join(f"'{status}'" for status in sorted(FINAL))
# What is large, an evaluation's inputs, has a table of its own: rows that change often stay small.
_SCHEMA: Final = f"""
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    idempotency_key TEXT UNIQUE,
    digest TEXT NOT NULL,
    evaluator TEXT NOT NULL,
    status TEXT NOT NULL,
    expires_at REAL NOT NULL,
    finished_at REAL,
    bytes INTEGER NOT NULL,
    job TEXT NOT NULL
);
CREATE INDEX jobs_by_status ON jobs (status);
CREATE TRIGGER final_states BEFORE UPDATE OF status ON jobs
    WHEN OLD.status IN ({_FINAL_NAMES}) AND NEW.status <> OLD.status
    BEGIN SELECT RAISE(ABORT, 'the evaluation has ended'); END;
CREATE TABLE inputs (
    job TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE, texts TEXT NOT NULL
);
CREATE TABLE units (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    side INTEGER NOT NULL, phase TEXT NOT NULL, item INTEGER NOT NULL,
    record TEXT, code TEXT, message TEXT, is_undefined INTEGER NOT NULL,
    PRIMARY KEY (job, side, phase, item)
) WITHOUT ROWID;
CREATE TABLE items (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position INTEGER NOT NULL, item TEXT NOT NULL, PRIMARY KEY (job, position)
) WITHOUT ROWID;
CREATE TABLE findings (
    job TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE, findings TEXT NOT NULL
);
CREATE TABLE events (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (job, number)
) WITHOUT ROWID;
PRAGMA user_version = {_FORMAT};
"""


@dataclass(frozen=True, slots=True)
class Event:
    """News of an evaluation: item, warning or done. Numbers count from 1, without gaps."""

    number: int
    kind: str
    data: str


class Journal:
    """A file of SQLite that one server at a time has. For one thread at a time.

    Raises `ConfigError` if the file is another server's, or none of ours.
    """

    def __init__(self, file: Path) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._db = _open(file)
        except (OSError, sqlite3.Error) as cause:
            raise ConfigError(
                f"Evaluations cannot be kept in {file} ({cause}): choose another directory with "
                "--evaluations-dir, or switch them off with an empty one."
            ) from cause

    def close(self) -> None:
        """Nothing may be asked afterwards."""
        self._db.close()

    def add(self, job: Job, inputs: Sequence[str], digest: str, key: str | None) -> bool:
        """False, and nothing is added, if an evaluation has this idempotency key already."""
        texts = dumps(list(inputs))
        row = (job.id, key, digest, job.evaluator, job.status, job.expires_at, len(texts))
        try:
            with self._transaction():
                self._db.execute(
                    "INSERT INTO jobs (id, idempotency_key, digest, evaluator, status, expires_at,"
                    " bytes, job) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (*row, _job_text(job)),
                )
                self._db.execute("INSERT INTO inputs VALUES (?, ?)", (job.id, texts))
        except sqlite3.IntegrityError:
            return False
        return True

    def find_key(self, key: str) -> tuple[Job, str] | None:
        """The evaluation with an idempotency key, and the digest of its request."""
        row = self._db.execute(
            "SELECT job, digest FROM jobs WHERE idempotency_key = ?", (key,)
        ).fetchone()
        return None if row is None else (_job(row[0]), row[1])

    def find(self, job_id: str) -> Job | None:
        """One evaluation."""
        row = self._db.execute("SELECT job FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _job(row[0])

    def page(
        self, limit: int, after: str | None, status: str | None, evaluator: str | None
    ) -> list[Job]:
        """Evaluations from the newest to the oldest, behind the one called `after`."""
        rows = self._db.execute(
            "SELECT job FROM jobs WHERE (:status IS NULL OR status = :status)"
            " AND (:evaluator IS NULL OR evaluator = :evaluator)"
            " AND (:after IS NULL OR number < (SELECT number FROM jobs WHERE id = :after))"
            " ORDER BY number DESC LIMIT :limit",
            {"status": status, "evaluator": evaluator, "after": after, "limit": limit},
        )
        return [_job(row[0]) for row in rows]

    def unfinished(self) -> list[Job]:
        """Evaluations that have not ended, in the order in which they are worked on."""
        rows = self._db.execute(
            f"SELECT job FROM jobs WHERE status NOT IN ({_FINAL_NAMES})"
            " ORDER BY status = 'queued', number"
        )
        return [_job(row[0]) for row in rows]

    def order(self, job: Job) -> Order:
        """What was asked for, with the inputs."""
        (texts,) = self._db.execute("SELECT texts FROM inputs WHERE job = ?", (job.id,)).fetchone()
        return Order(
            evaluator=job.evaluator,
            version=job.version,
            models=job.models,
            fingerprints=job.fingerprints,
            params=job.params,
            inputs=tuple(json.loads(texts)),
            limits=job.limits,
            metadata=job.metadata,
        )

    def update(self, job: Job) -> None:
        """Raises `sqlite3.IntegrityError` for a change of a final state."""
        with self._transaction():
            self._update(job)

    def record(self, job: Job, place: Place, outcome: Outcome, events: Sequence[Event]) -> None:
        """A unit that is done, and how far the evaluation has come with it."""
        code, message = (None, None) if (fault := outcome.fault) is None else astuple(fault)
        unit = place.unit
        key = (job.id, place.side, unit.phase, unit.index)
        with self._transaction():
            self._db.execute(
                "INSERT INTO units VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*key, outcome.record, code, message, outcome.is_undefined),
            )
            self._append(job, events)
            self._update(job)

    def append(self, job: Job, events: Sequence[Event]) -> None:
        """News that no unit brought."""
        with self._transaction():
            self._append(job, events)

    def units(self, job: Job) -> Iterator[tuple[Place, Outcome]]:
        """All that is done."""
        rows = self._db.execute(
            "SELECT side, phase, item, record, code, message, is_undefined FROM units"
            " WHERE job = ?",
            (job.id,),
        )
        for side, phase, item, record, code, message, is_undefined in rows:
            fault = None if code is None else Fault(code, message)
            yield Place(side, Unit(phase, item)), Outcome(record, fault, bool(is_undefined))

    def finish(
        self,
        job: Job,
        events: Sequence[Event],
        items: Sequence[tuple[int, str]] = (),
        findings: str | None = None,
    ) -> None:
        """The final state. Finished items, by position, and findings take the place of units."""
        size = sum(len(item) for _, item in items)
        with self._transaction():
            if findings is not None:
                rows = ((job.id, position, item) for position, item in items)
                self._db.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)
                self._db.execute("INSERT INTO findings VALUES (?, ?)", (job.id, findings))
                self._db.execute("DELETE FROM units WHERE job = ?", (job.id,))
            else:
                (size,) = self._db.execute(
                    "SELECT COALESCE(SUM(LENGTH(record)), 0) FROM units WHERE job = ?", (job.id,)
                ).fetchone()
            self._append(job, events)
            self._update(job)
            self._db.execute(
                "UPDATE jobs SET finished_at = ?, bytes = bytes + ? WHERE id = ?",
                (job.finished_at, size, job.id),
            )

    def findings(self, job: Job) -> dict[str, Any] | None:
        """Of an evaluation that was completed."""
        row = self._db.execute("SELECT findings FROM findings WHERE job = ?", (job.id,)).fetchone()
        return None if row is None else json.loads(row[0])

    def items(self, job: Job, after: int, limit: int) -> list[tuple[int, str]]:
        """Positions and items, as JSON, of an evaluation that was completed."""
        return self._db.execute(
            "SELECT position, item FROM items WHERE job = ? AND position > ?"
            " ORDER BY position LIMIT ?",
            (job.id, after, limit),
        ).fetchall()

    def events(self, job_id: str, after: int, limit: int = 500) -> list[Event]:
        """Those with a larger number than `after`."""
        rows = self._db.execute(
            "SELECT number, kind, data FROM events WHERE job = ? AND number > ?"
            " ORDER BY number LIMIT ?",
            (job_id, after, limit),
        )
        return [Event(*row) for row in rows]

    def warnings(self, job_id: str) -> list[dict[str, Any]]:
        """What an evaluation warns of."""
        rows = self._db.execute(
            "SELECT data FROM events WHERE job = ? AND kind = 'warning' ORDER BY number", (job_id,)
        )
        return [json.loads(row[0]) for row in rows]

    def last_event(self, job_id: str) -> int:
        """Its number; 0 if there is none."""
        row = self._db.execute("SELECT MAX(number) FROM events WHERE job = ?", (job_id,)).fetchone()
        return row[0] or 0

    def delete(self, job_id: str) -> None:
        """All that is known of an evaluation, and its idempotency key."""
        with self._transaction():
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        self._db.executescript("PRAGMA incremental_vacuum")  # execute() would free one page only

    def superfluous(self, finished_before: float, max_bytes: int) -> list[str]:
        """Finished evaluations that are too old, or, the oldest first, take too much room."""
        rows = self._db.execute(
            "SELECT id FROM (SELECT id, finished_at, SUM(bytes)"
            " OVER (ORDER BY finished_at DESC, number DESC) AS total FROM jobs"
            " WHERE finished_at IS NOT NULL) WHERE finished_at < ? OR total > ?",
            (finished_before, max_bytes),
        )
        return [row[0] for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._db:  # commits at its end, rolls back if something was raised
                yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            raise OutOfDiskError("There is no room left to keep evaluations.") from error

    def _update(self, job: Job) -> None:
        self._db.execute(
            "UPDATE jobs SET status = ?, job = ? WHERE id = ?", (job.status, _job_text(job), job.id)
        )

    def _append(self, job: Job, events: Sequence[Event]) -> None:
        self._db.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?)",
            ((job.id, event.number, event.kind, event.data) for event in events),
        )


def _open(file: Path) -> sqlite3.Connection:
    # made in one thread and used in the event loop's, never by both at once
    db = sqlite3.connect(file, timeout=0.2, check_same_thread=False)
    try:
        for pragma in (
            "locking_mode = EXCLUSIVE",  # two servers would both go on with the same evaluations
            "auto_vacuum = INCREMENTAL",
            "journal_mode = WAL",
            "synchronous = NORMAL",  # what was committed survives a kill, if not a power failure
            "foreign_keys = ON",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        db.execute("BEGIN EXCLUSIVE")
        (found,) = db.execute("PRAGMA user_version").fetchone()
        db.commit()
        if found == 0:
            db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif found != _FORMAT:
            raise sqlite3.DatabaseError(f"its format is {found}, not {_FORMAT}")
    except BaseException:
        db.close()
        raise
    return db


def _job_text(job: Job) -> str:
    return dumps(asdict(job))


def _job(text: str) -> Job:
    plain: Mapping[str, Any] = json.loads(text)
    error = plain["error"]
    return Job(
        **dict(plain)
        | {
            "status": Status(plain["status"]),
            "models": tuple(plain["models"]),
            "fingerprints": tuple(plain["fingerprints"]),
            "limits": JobLimits(**plain["limits"]),
            "progress": Progress(**plain["progress"]),
            "counts": Counts(**plain["counts"]),
            "error": None if error is None else Fault(**error),
        }
    )
