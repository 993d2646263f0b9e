"""Predicted beside actual: seconds and accepted tokens of every step that only decodes."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np

_KEPT: Final = 2048  # steps that errors are computed over


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step. Seconds of drafting, of the target's pass, of the whole step; `rows` of the pass.

    `expected` and `accepted` count draft tokens. `sequences` were decoding, of which `drafted` had
    drafts to verify, `nodes` in all; `levels` passes of the drafter were made.
    """

    sequences: int
    drafted: int
    nodes: int
    levels: int
    rows: int
    predicted_draft: float
    draft: float
    predicted_verify: float
    verify: float
    predicted: float
    seconds: float
    expected: float
    accepted: int
    tokens: int


@dataclass(frozen=True, slots=True)
class SpeculationReport:
    """Predicted beside actual since the start, over all steps that only decoded.

    `step_errors` are quantiles of |predicted - actual| / actual over the last steps;
    `calibration_error` is the expected calibration error of acceptance, NaN before any draft;
    `drift` how many times as long as in the profile the target's passes take now.
    """

    steps: int
    seconds: float
    predicted_seconds: float
    tokens: int
    draft_tokens: int
    accepted: int
    expected: float
    drafted_steps: int
    plain_steps: int
    step_errors: dict[str, float]
    calibration_error: float
    drift: float


@dataclass(slots=True)
class Meter:
    """Sums since the start, and the last steps one by one."""

    steps: int = 0
    seconds: float = 0.0
    predicted_seconds: float = 0.0
    expected: float = 0.0
    accepted: int = 0
    nodes: int = 0
    tokens: int = 0
    choices: Counter[str] = field(default_factory=Counter)  # sequences by what was done for them
    recent: deque[StepRecord] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def add(self, record: StepRecord) -> None:
        self.steps += 1
        self.seconds += record.seconds
        self.predicted_seconds += record.predicted
        self.expected += record.expected
        self.accepted += record.accepted
        self.nodes += record.nodes
        self.tokens += record.tokens
        self.choices["drafted"] += record.drafted
        self.choices["plain"] += record.sequences - record.drafted
        self.recent.append(record)

    def errors(self) -> dict[str, float]:
        """Of |predicted - actual| over actual seconds, in the last steps."""
        if not self.recent:
            return {}
        # A copy: others may read while the engine goes on.
        off = [abs(one.predicted - one.seconds) / one.seconds for one in list(self.recent)]
        return {"0.5": float(np.median(off)), "0.9": float(np.quantile(off, 0.9))}

    def report(self, calibration_error: float, drift: float) -> SpeculationReport:
        return SpeculationReport(
            steps=self.steps,
            seconds=self.seconds,
            predicted_seconds=self.predicted_seconds,
            tokens=self.tokens,
            draft_tokens=self.nodes,
            accepted=self.accepted,
            expected=self.expected,
            drafted_steps=self.choices["drafted"],
            plain_steps=self.choices["plain"],
            step_errors=self.errors(),
            calibration_error=calibration_error,
            drift=drift,
        )
