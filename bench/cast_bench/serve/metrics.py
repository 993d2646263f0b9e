"""From the answers of a run to its figures, under the names that `vllm bench serve` gives them.

TTFT is the time to the first token, TPOT the time per output token behind it, ITL the time between
tokens, ICL between chunks, E2EL from sending to the end of the answer, all in milliseconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from cast_bench.serve.answer import Answer, Failure
from cast_bench.serve.load import Run
from cast_bench.serve.objectives import Objectives, is_good

LATENCIES: Final = ("ttft", "tpot", "itl", "icl", "e2el")
STATISTICS: Final = ("mean", "median", "std", "p90", "p95", "p99")


def figures(run: Run, objectives: Objectives) -> dict[str, Any]:
    """Everything but single requests. What nobody told is None; failures are in no latency."""
    whole = [answer for answer in run.answers if answer.failure is None]
    failures = [answer.failure for answer in run.answers if answer.failure is not None]
    return {
        **_load(run),
        "completed": len(whole),
        "failed": len(failures),
        "unfinished": run.num_sent - len(run.answers),
        "unsent": len(run.questions) - run.num_sent,
        "failures": _named(failures),
        **_throughput(run, whole),
        **_goodput(run, objectives),
        **_latencies(whole),
        "spec_decode": _speculation(whole),
        "client_lag_ms": _statistics(run.lags),
    }


def _load(run: Run) -> dict[str, Any]:
    rate = run.load.request_rate
    waits = [answer.sent - answer.due for answer in run.answers]
    return {
        "request_rate": "inf" if math.isinf(rate) else rate,
        "burstiness": run.load.burstiness,
        "max_concurrency": run.load.max_concurrency,
        "num_prompts": len(run.questions),
        "distinct_prompts": len({question.prompt for question in run.questions}),
        "interrupted": run.interrupted,
        "mean_concurrency": sum(answer.seconds for answer in run.answers) / run.seconds,
        # with a rate: how long requests waited for a place, or for a client that is too slow
        "client_wait_ms": None if math.isinf(rate) else _statistics(waits),
    }


def _named(failures: Sequence[Failure]) -> dict[str, dict[str, Any]]:
    """How many of each name, and what was said of the first."""
    first: dict[str, str] = {}
    for failure in failures:
        first.setdefault(failure.name, failure.message)
    counts = Counter(failure.name for failure in failures)
    return {name: {"count": count, "message": first[name]} for name, count in counts.most_common()}


def _throughput(run: Run, whole: Sequence[Answer]) -> dict[str, Any]:
    read = _sum(answer.prompt_tokens for answer in whole)
    written = sum(answer.tokens for answer in whole)
    return {
        "duration": run.seconds,
        "total_input_tokens": read,
        "total_cached_tokens": _sum(answer.cached_tokens for answer in whole),
        "total_output_tokens": written,
        "output_tokens_counted_in": _unit(all(a.completion_tokens is not None for a in whole)),
        "request_throughput": len(whole) / run.seconds,
        "output_throughput": written / run.seconds,
        "total_token_throughput": None if read is None else (read + written) / run.seconds,
    }


def _goodput(run: Run, objectives: Objectives) -> dict[str, Any]:
    """`good_share` is of all requests that ended, failures among them."""
    if not objectives:
        return {"goodput": None, "request_goodput": None, "good_share": None}
    good = sum(is_good(answer, objectives) for answer in run.answers)
    return {
        "goodput": dict(objectives),
        "request_goodput": good / run.seconds,
        "good_share": good / len(run.answers) if run.answers else 0.0,
    }


def _latencies(whole: Sequence[Answer]) -> dict[str, Any]:
    has_counts = all(answer.chunk_tokens is not None for answer in whole)
    seconds = {
        "ttft": [answer.ttft for answer in whole],
        "tpot": [answer.tpot for answer in whole if answer.tpot is not None],
        "itl": [gap for answer in whole for gap in (answer.itl if has_counts else answer.icl)],
        "icl": [gap for answer in whole for gap in answer.icl],
        "e2el": [answer.seconds for answer in whole],
    }
    named = {
        f"{statistic}_{name}_ms": value
        for name in LATENCIES
        for statistic, value in _statistics(seconds[name]).items()
    }
    return {"itl_counted_in": _unit(has_counts), **named}


def _speculation(whole: Sequence[Answer]) -> dict[str, Any] | None:
    """Summed over the answers that told, under the names that castserve and vLLM use in them."""
    told = [answer.speculation for answer in whole if answer.speculation is not None]
    if not told:
        return None
    drafted = sum(one.num_draft_tokens for one in told)
    accepted = sum(one.num_accepted_draft_tokens for one in told)
    steps = _sum(one.num_spec_steps for one in told)
    return {
        "requests": len(told),
        "num_draft_tokens": drafted,
        "num_accepted_draft_tokens": accepted,
        "num_spec_steps": steps,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
        "mean_acceptance_length": 1 + accepted / steps if steps else None,
    }


def _statistics(seconds: Sequence[float]) -> dict[str, float | None]:
    """In milliseconds. None of nothing."""
    if not seconds:
        return dict.fromkeys(STATISTICS)
    values = np.asarray(seconds) * 1000
    median, *high = np.percentile(values, (50, 90, 95, 99))
    found = map(float, (values.mean(), median, values.std(), *high))
    return dict(zip(STATISTICS, found, strict=True))


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _unit(is_tokens: bool) -> str:
    return "tokens" if is_tokens else "chunks"
