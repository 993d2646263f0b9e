"""Simulated beside measured: the cells of a file of `cast-bench policies`, run again on a trace."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cast_bench.policy_cells import Cell as MeasuredCell
from cast_bench.simulate.engine import Cell, Simulation
from cast_bench.simulate.trace import Trace
from cast_server.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Pair:
    """Tokens a second of one cell, the measured ones a median over rounds."""

    dataset: str
    batch_size: int
    policy: str
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        return self.simulated / self.measured - 1 if self.measured else math.nan


@dataclass(frozen=True, slots=True)
class Measured:
    """What `cast-bench policies --json` wrote, as far as it is simulated."""

    speeds: dict[tuple[str, int, str], float]
    model: str
    num_tokens: int
    warmup: int
    max_draft_rows: int

    @classmethod
    def load(cls, path: Path) -> Measured:
        """Raises `ConfigError`, one sentence, for another file."""
        try:
            document = json.loads(path.read_text())
            told: dict[str, Any] = document["provenance"]["arguments"]
            speeds = defaultdict(list)
            for record in document["cells"]:
                cell = MeasuredCell(**record | {"differences": []})
                speeds[cell.dataset, cell.batch_size, cell.policy].append(cell.speed)
            return cls(
                {key: float(np.median(some)) for key, some in speeds.items()},
                told["model"],
                told["num_tokens"],
                told["warmup"] or told["num_tokens"],
                told["max_draft_rows"],
            )
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise ConfigError(
                f"{path} is no file of cast-bench policies --json ({cause})."
            ) from cause

    def check(self, trace: Trace) -> None:
        """Raises `ConfigError` unless the trace is of the same model, data sets and lengths."""
        if trace.recorded.model != self.model:
            raise ConfigError(
                f"The trace is of {trace.recorded.model}, but what was measured is of {self.model}."
            )
        if missing := {key[0] for key in self.speeds} - set(trace.datasets):
            raise ConfigError(f"The trace has no prompts of {', '.join(sorted(missing))}.")
        if (longest := min(len(one.token_ids) for one in trace.scripts)) < self.num_tokens:
            raise ConfigError(
                f"The trace's answers have {longest} tokens, those measured {self.num_tokens}: "
                "record it with as many (--num-tokens)."
            )


def validate(simulation: Simulation, measured: Measured) -> list[Pair]:
    """Every measured cell, simulated in the same way."""
    pairs = []
    for (dataset, batch_size, policy), speed in measured.speeds.items():
        cell = Cell(dataset, policy, batch_size, None)
        simulation.run(cell, measured.num_tokens, measured.warmup)
        pairs.append(Pair(dataset, batch_size, policy, speed, cell.speed))
    return pairs


def median_error(pairs: Sequence[Pair]) -> float:
    """Of the absolute errors of all cells; NaN if something was not counted."""
    errors = [abs(one.error) for one in pairs if one.measured]
    return float(np.median(errors)) if errors else math.nan


def biases(pairs: Sequence[Pair]) -> dict[str, float]:
    """By policy, the median of the signed errors."""
    policies = dict.fromkeys(one.policy for one in pairs if one.measured)
    return {
        name: float(np.median([one.error for one in pairs if one.policy == name and one.measured]))
        for name in policies
    }


def table(pairs: Sequence[Pair]) -> Iterator[str]:
    yield "| data set | batch | policy | measured, tokens/s | simulated, tokens/s | error |"
    yield "|---|---|---|---|---|---|"
    for one in pairs:
        speeds = f"{one.measured:.1f} | {one.simulated:.1f} | {100 * one.error:+.1f} %"
        yield f"| {one.dataset} | {one.batch_size} | {one.policy} | {speeds} |"
    yield ""
    error = f"{100 * median_error(pairs):.1f} %"
    yield f"Median error over {len(pairs)} cells: {error}. By policy, signed:"
    yield ", ".join(f"{name} {100 * bias:+.1f} %" for name, bias in biases(pairs).items()) + "."
