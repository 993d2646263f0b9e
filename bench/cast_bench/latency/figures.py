"""From iterations to figures: one set of them for each batch size and policy.

Names are those of `vllm bench latency` (avg_latency, latencies, percentiles) and `vllm bench serve`
(mean_ttft_ms …) where these have one; seconds unless a name ends in `_ms`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from operator import attrgetter
from typing import Any, Final

import numpy as np

from cast_bench.latency.iteration import Iteration
from cast_bench.ratios import Ratio, ratio

_PERCENTILES: Final = (10, 25, 50, 75, 90, 99)
_REQUEST_SPEED: Final[Callable[[Iteration], float]] = attrgetter("request_speed")
_SPEED: Final[Callable[[Iteration], float]] = attrgetter("speed")
_FULL_SPEED: Final[Callable[[Iteration], float]] = attrgetter("decoding.full_speed")

Figures = dict[str, Any]


def all_figures(iterations: Sequence[Iteration], policies: Sequence[str]) -> list[Figures]:
    """In rising order of batch sizes, and in the order of `policies`, all of which have run."""
    sizes = sorted({one.batch_size for one in iterations})
    return [_figures(iterations, size, name) for size in sizes for name in policies]


def times_off(
    iterations: Sequence[Iteration],
    policy: str,
    batch_size: int,
    speed: Callable[[Iteration], float] = _REQUEST_SPEED,
) -> Ratio:
    """By how much a policy is faster than `off`, paired by round: the mean request."""
    mine, plain = (
        sorted(
            (one for one in iterations if (one.policy, one.batch_size) == (name, batch_size)),
            key=lambda one: one.round,
        )
        for name in (policy, "off")
    )
    return ratio([speed(one) for one in mine], [speed(one) for one in plain])


def batch_times_off(iterations: Sequence[Iteration], policy: str, batch_size: int) -> Ratio:
    """The same of whole batches, until their last request has ended."""
    return times_off(iterations, policy, batch_size, _SPEED)


def _figures(iterations: Sequence[Iteration], batch_size: int, policy: str) -> Figures:
    mine = [one for one in iterations if (one.policy, one.batch_size) == (policy, batch_size)]
    latencies = [one.latency for one in mine]
    counts = np.percentile(latencies, _PERCENTILES).tolist()
    joules = [one.energy / one.num_tokens for one in mine if one.energy is not None]
    return {
        "policy": policy,
        "batch_size": batch_size,
        "avg_latency": float(np.mean(latencies)),
        "latencies": latencies,
        "percentiles": {str(p): value for p, value in zip(_PERCENTILES, counts, strict=True)},
        "tokens_per_second": float(np.median([one.speed for one in mine])),
        "decode_tokens_per_second": float(np.median([_FULL_SPEED(one) for one in mine])),
        "times_off": _told(times_off(iterations, policy, batch_size)),
        "batch_times_off": _told(batch_times_off(iterations, policy, batch_size)),
        "decode_times_off": _told(times_off(iterations, policy, batch_size, _FULL_SPEED)),
        **_request_times(mine),
        **_acceptance(mine),
        **_step_times(mine),
        "joules_per_token": float(np.mean(joules)) if joules else None,
        **_identity(mine),
    }


def _told(one: Ratio) -> dict[str, float | None]:
    values = {"median": one.median, "low": one.low, "high": one.high}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _request_times(mine: Sequence[Iteration]) -> Figures:
    gaps = [pair for one in mine for pair in one.times.itl]
    values = {
        name: np.array([value for one in mine for value in getattr(one.times, name)])
        for name in ("ttft", "tpot", "e2el")
    }
    values["itl"] = np.repeat([gap for gap, _ in gaps], [count for _, count in gaps])
    return {
        f"{how}_{name}_ms": 1e3 * float(of(some)) if len(some) else None
        for name, some in values.items()
        for how, of in (
            ("mean", np.mean),
            ("median", np.median),
            ("std", np.std),
            ("p99", _p99),
        )
    }


def _p99(values: Any) -> Any:
    return np.percentile(values, 99)


def _acceptance(mine: Sequence[Iteration]) -> Figures:
    """By depth: the share of verifications that accepted at least as many draft tokens."""
    counts = list(map(sum, zip_longest(*(one.decoding.histogram for one in mine), fillvalue=0)))
    total = sum(counts)
    deeper = [sum(counts[depth:]) / total for depth in range(1, len(counts))] if total else []
    drafted = _sum(one.decoding.drafted for one in mine)
    accepted = _sum(one.decoding.accepted for one in mine)
    return {
        "acceptance_length": 1 + sum(deeper) if total else None,
        "acceptance_by_depth": deeper,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
        "expected_over_accepted": (
            _sum(one.decoding.expected for one in mine) / accepted if accepted else None
        ),
    }


def _step_times(mine: Sequence[Iteration]) -> Figures:
    """Shares of the steps that only decode; what they took beside what was predicted."""
    seconds = _sum(one.decoding.seconds for one in mine)
    draft = _sum(one.decoding.draft_seconds for one in mine)
    verify = _sum(one.decoding.verify_seconds for one in mine)
    errors = [error for one in mine for error in one.decoding.errors]
    if not errors:
        return {"step_shares": None, "predicted_over_actual": None, "step_errors": None}
    return {
        "step_shares": {
            "draft": draft / seconds,
            "verify": verify / seconds,
            "host": 1 - (draft + verify) / seconds,
        },
        "predicted_over_actual": _sum(one.decoding.predicted_seconds for one in mine) / seconds,
        "step_errors": {str(q): float(np.quantile(errors, q)) for q in (0.5, 0.9)},
    }


def _identity(mine: Sequence[Iteration]) -> Figures:
    verdicts = [one.verdict for iteration in mine for one in iteration.differences]
    return {
        "outputs": sum(one.batch_size for one in mine),
        "token_identical": not verdicts,
        "near_ties": verdicts.count("near tie"),
        "bugs": verdicts.count("bug"),
        "not_judged": verdicts.count("not judged"),
    }


def _sum(values: Iterable[float]) -> float:
    return float(sum(values))
