"""Token counts and speculation metrics of an HTTP request, summed over its choices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import zip_longest

from cast_server.api.requests import RequestGroup
from cast_server.api.responses import (
    Metrics,
    PromptTokensDetails,
    SpeculativeDecodingMetrics,
    Usage,
)
from cast_server.engine.request import RequestOutput, SpeculationStats
from cast_server.observing.request_times import request_times


def usage_of(group: RequestGroup, last_outputs: Sequence[RequestOutput]) -> Usage:
    """What the request is to be billed for. `last_outputs[i]` ended choice i."""
    completion_tokens = sum(output.num_output_tokens for output in last_outputs)
    # later copies find the prompt in the cache because the first has put it there
    cached_tokens = sum(output.num_cached_tokens for output in last_outputs[:: group.copies])
    return Usage(
        prompt_tokens=group.num_prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=group.num_prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
    )


def metrics_of(last_outputs: Sequence[RequestOutput]) -> Metrics:
    """What drafting did for the request, and how long it took. Means of nothing are null."""
    each = [output.speculation for output in last_outputs]
    total = reduce(_add, each, SpeculationStats(policy=each[0].policy if each else "off"))
    steps, drafted = total.num_spec_steps, total.num_draft_tokens
    return Metrics(
        speculative_decoding=SpeculativeDecodingMetrics(
            policy=total.policy,
            num_spec_steps=steps,
            num_draft_tokens=drafted,
            num_accepted_draft_tokens=total.num_accepted_draft_tokens,
            mean_acceptance_length=total.mean_acceptance_length if steps else None,
            draft_acceptance_rate=total.num_accepted_draft_tokens / drafted if drafted else None,
            acceptance_histogram=list(total.histogram),
            num_expected_draft_tokens=total.num_expected_draft_tokens,
            predicted_seconds=total.predicted_seconds,
            seconds=total.seconds,
        ),
        **_times(last_outputs),
    )


def _times(last_outputs: Sequence[RequestOutput]) -> dict[str, float | None]:
    if not any(output.timings for output in last_outputs):
        return {}
    times = request_times(last_outputs)
    return {
        "queue_time_ms": _milliseconds(times.queue),
        "time_to_first_token_ms": _milliseconds(times.first_token),
        "generation_time_ms": _milliseconds(times.generation),
        "mean_itl_ms": _milliseconds(times.mean_itl),
        "tokens_per_second": times.tokens_per_second,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _add(left: SpeculationStats, right: SpeculationStats) -> SpeculationStats:
    histogram = zip_longest(left.histogram, right.histogram, fillvalue=0)
    return SpeculationStats(
        policy=left.policy,
        num_spec_steps=left.num_spec_steps + right.num_spec_steps,
        num_draft_tokens=left.num_draft_tokens + right.num_draft_tokens,
        num_accepted_draft_tokens=left.num_accepted_draft_tokens + right.num_accepted_draft_tokens,
        histogram=tuple(a + b for a, b in histogram),
        num_expected_draft_tokens=left.num_expected_draft_tokens + right.num_expected_draft_tokens,
        predicted_seconds=left.predicted_seconds + right.predicted_seconds,
        seconds=left.seconds + right.seconds,
    )
