"""An evaluation as a job: what was ordered, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from cast_server.evaluators.jobs.limits import JobLimits


class Status(StrEnum):
    """queued -> in_progress -> completed | failed; either -> canceling -> canceled; either ->
    expired. The last four are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    CANCELING = "canceling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.EXPIRED})


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong, for machines and for people."""

    code: str
    message: str


class JobFailure(Exception):
    """Ends an evaluation as failed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(code, message)


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, and of which models.

    models: the model, and the baseline if there is one. fingerprints: theirs, in the same order.
    params: as JSON; the evaluator's own type validates it.
    """

    evaluator: str
    version: str
    models: tuple[str, ...]
    fingerprints: tuple[Mapping[str, str], ...]
    params: Mapping[str, Any]
    inputs: tuple[str, ...]
    limits: JobLimits = field(default_factory=JobLimits)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """done, total, failed, undefined: units. Those that failed or are undefined are done too."""

    phase: str | None = None
    done: int = 0
    total: int = 0
    failed: int = 0
    undefined: int = 0
    tokens: int = 0
    eta_seconds: float | None = None

    def idle(self) -> Progress:
        """Of an evaluation that nobody works on."""
        return replace(self, eta_seconds=None)


@dataclass(frozen=True, slots=True)
class Counts:
    """Items of all models together. total: those planned; the others: those that are done."""

    total: int = 0
    ok: int = 0
    errored: int = 0
    undefined: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """All that is told of an evaluation without its inputs and results. Times: Unix seconds."""

    id: str
    status: Status
    evaluator: str
    version: str
    models: tuple[str, ...]
    fingerprints: tuple[Mapping[str, str], ...]
    params: Mapping[str, Any]
    limits: JobLimits
    metadata: Mapping[str, str]
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    progress: Progress = Progress()
    counts: Counts = Counts()
    error: Fault | None = None
    cancel_requested: bool = False

    @property
    def expires_at(self) -> float:
        return self.created_at + self.limits.max_seconds
