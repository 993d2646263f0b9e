"""Measures what passes of an engine cost."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from typing import Any, Final

from tqdm import tqdm

from cast_drafters.draft_model import DraftModelDrafter
from cast_drafters.eagle.drafter import EagleDrafter
from cast_profiler.device import read_bandwidth, telemetry
from cast_profiler.grid import GridPoint, make_grid, most_important_first
from cast_profiler.profile import MemoryFloor, Profile
from cast_profiler.rounds import Probe, Timings, take_turns
from cast_profiler.samples import Summary, quiet_level, summarise
from cast_profiler.surface import Measurement, Surface
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore
from cast_server.errors import ConfigError
from cast_server.profiling.identity import fingerprint_of, level_buckets, weight_bytes
from cast_server.profiling.passes import DraftModelLevel, HeadLevel, VerifyPass, fill_head
from cast_server.profiling.scratch import fill_context, fits


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure and what. Contexts rise; the first one is where most is measured."""

    budget_seconds: float = 60.0
    max_rows: int = 64
    contexts: tuple[int, ...] = (256, 1024, 4096)
    quick: bool = False


QUICK: Final = Effort(budget_seconds=4.5, contexts=(256, 1024), quick=True)

_Passes = list[tuple[GridPoint, Probe]]
_GridMaker = Callable[..., list[GridPoint]]


def measure_profile(
    core: EngineCore, config: EngineConfig, effort: Effort, show_progress: bool = True
) -> Profile:
    """Of the engine that `config` made, before its first request.

    Raises `ConfigError` if its KV cache is too small for any pass.
    """
    assert not core.has_work, "passes that are timed need the engine for themselves"
    begin = time.monotonic()
    grid = _grid_maker(core, effort)
    points = grid(effort.max_rows, core.target.buckets)
    if not points:
        raise ConfigError("The KV cache is too small to measure anything in it.")
    slots_M = fill_context(core, points)
    if isinstance(core.drafter, EagleDrafter):
        fill_head(core, core.drafter.head, slots_M)
    verify: _Passes = [(point, VerifyPass(core, point)) for point in points]
    device = core.runner.device
    num_bytes = weight_bytes(core.runner.model)
    memory = MemoryFloor(num_bytes, read_bandwidth(num_bytes, device))
    before = telemetry(device)
    with _draft_passes(core, grid, effort) as draft, _progress(effort, show_progress) as tell:
        # In turns: where time runs out, both have lost their least important ones.
        passes = [one for pair in zip_longest(verify, draft) for one in pair if one is not None]
        timings = take_turns(
            [probe for _, probe in passes],
            verify[0][1],
            effort.budget_seconds,
            essential=2 if draft else 1,
            on_progress=tell,
        )
    provenance = _provenance(effort, timings, time.monotonic() - begin)
    if before is not None:
        provenance["device"] = {"before": before, "after": telemetry(device)}
    summaries = _summaries(passes, timings)
    levels = _surface(draft, summaries, level_buckets(core)) if draft else None
    return Profile(
        fingerprint_of(core, config),
        _surface(verify, summaries, core.target.buckets),
        levels,
        memory,
        provenance,
    )


def _grid_maker(core: EngineCore, effort: Effort) -> _GridMaker:
    """Makes the grid for the most rows asked for, shrunk to what this engine has room for; the most
    important points come first."""
    limits, pool = core.scheduler.limits, core.scheduler.pool
    room = min(limits.max_model_len, pool.num_free * pool.block_size)
    contexts: tuple[int, ...] = effort.contexts
    if contexts[0] > room // 2:
        contexts = tuple(sorted({max(1, room // 8), max(1, room // 2)}))
    most = max(1, min(limits.max_batched_tokens, room - contexts[0]))

    def make(max_rows: int, buckets: tuple[int, ...] = ()) -> list[GridPoint]:
        points = make_grid(
            min(max_rows, most),
            contexts,
            partial(fits, core),
            max_sequences=limits.max_num_seqs,
            quick=effort.quick,
            buckets=buckets,
        )
        return most_important_first(points) if points else []

    return make


@contextmanager
def _draft_passes(core: EngineCore, grid: _GridMaker, effort: Effort) -> Iterator[_Passes]:
    """Levels of the drafter, if it has any that cost a pass."""
    drafter = core.drafter
    if isinstance(drafter, EagleDrafter):
        head = drafter.head
        points = grid(min(effort.max_rows, head.num_scratch), level_buckets(core))
        yield [(point, HeadLevel(core, drafter, point)) for point in points]
    elif isinstance(drafter, DraftModelDrafter):
        # Its rows are run one by one: a row a sequence, and no need to measure many.
        points = [p for p in grid(effort.max_rows) if p.rows == p.sequences <= 4]
        levels = [(point, DraftModelLevel(core, drafter, point)) for point in points]
        try:
            yield [*levels]
        finally:
            for _, level in levels:
                level.close()
    else:
        yield []


@contextmanager
def _progress(effort: Effort, is_shown: bool) -> Iterator[Callable[[float], None]]:
    """A bar of seconds; only where a terminal shows it."""
    layout = "{desc}: {bar} {n:.0f}/{total:.0f} s"
    with tqdm(
        total=effort.budget_seconds,
        desc="Measuring what steps cost",
        bar_format=layout,
        disable=None if is_shown else True,
        leave=False,
    ) as bar:
        yield lambda share: bar.update(share * effort.budget_seconds - bar.n)


def _summaries(passes: _Passes, timings: Timings) -> dict[Probe, Summary]:
    """Of all passes that there was time for."""
    quiet = quiet_level(timings.references)
    return {
        probe: summarise(samples, quiet)
        for (_, probe), samples in zip(passes, timings.samples, strict=True)
        if samples
    }


def _surface(
    passes: _Passes, summaries: Mapping[Probe, Summary], buckets: tuple[int, ...]
) -> Surface:
    points = (
        Measurement.of(point, summaries[probe]) for point, probe in passes if probe in summaries
    )
    return Surface(tuple(points), buckets)


def _provenance(effort: Effort, timings: Timings, seconds: float) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "budget_seconds": effort.budget_seconds,
        "quick": effort.quick,
        "rounds": timings.rounds,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "reference": {
            "runs": len(timings.references),
            "quiet_seconds": quiet_level(timings.references),
            "median_seconds": statistics.median(timings.references),
            "slowest_seconds": max(timings.references),
        },
    }
