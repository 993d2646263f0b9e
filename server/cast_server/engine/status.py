"""How busy an engine is, and what its drafting goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cast_profiler.cost import CostTable
from cast_profiler.drift import CorrectedCost
from cast_server.engine.trace import SOURCES

if TYPE_CHECKING:  # the core's own modules know of neither
    from cast_server.engine.core import EngineCore

_USUAL_ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
_USUAL_KEYS: Final = 256


@dataclass(frozen=True, slots=True)
class CostCurveNow:
    """Seconds of the target's pass by rows, for one sequence with `keys` tokens of context: as the
    profile has them, and as corrected by what the running server has seen.

    `is_measured`: the profile was measured on this machine, at just these rows; else it is a guess.
    """

    is_measured: bool
    keys: int
    rows: tuple[int, ...]
    profile_seconds: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Sequences that run and wait, tokens that the KV cache holds for them and could hold, tokens a
    second lately; then what drafting goes by. `sources` name where guesses come from."""

    num_running: int
    num_waiting: int
    max_running: int
    kv_tokens_used: int
    kv_tokens: int
    tokens_per_second: float
    default_policy: str
    drafter: str
    sources: tuple[str, ...]
    cost: CostCurveNow


def status_of(core: EngineCore) -> EngineStatus:
    """May be asked from any thread."""
    scheduler, drafter = core.scheduler, core.drafter.name
    pool = scheduler.pool
    return EngineStatus(
        num_running=len(scheduler.running),
        num_waiting=len(scheduler.waiting),
        max_running=scheduler.limits.max_num_seqs,
        kv_tokens_used=(pool.num_blocks - pool.num_free) * pool.block_size,
        kv_tokens=pool.num_blocks * pool.block_size,
        tokens_per_second=core.pace.tokens_per_second,
        default_policy=core.default_policy,
        drafter=drafter,
        sources=SOURCES.get(drafter, ()),
        cost=_curve(core.planner.cost),
    )


def _curve(cost: CorrectedCost) -> CostCurveNow:
    base, keys = cost.base, _USUAL_KEYS
    rows: tuple[int, ...] = _USUAL_ROWS
    if isinstance(base, CostTable):
        rows, keys = base.verify.rows, base.verify.keys_at_measurement
    return CostCurveNow(
        is_measured=isinstance(base, CostTable),
        keys=keys,
        rows=rows,
        profile_seconds=tuple(base.verify_seconds(count, keys) for count in rows),
        seconds=tuple(cost.verify_seconds(count, keys) for count in rows),
    )
