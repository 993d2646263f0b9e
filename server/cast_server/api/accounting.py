"""Token counts and speculation metrics of an HTTP request, summed over its choices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import zip_longest

from cast_drafters.tree import PREDICTED, SOURCES
from cast_server.api.requests import RequestGroup
from cast_server.api.responses import (
    CompletionTokensDetails,
    Metrics,
    PromptTokensDetails,
    SourceMetrics,
    SpeculativeDecodingMetrics,
    Usage,
)
from cast_server.engine.request import RequestOutput, SpeculationStats
from cast_server.observing.request_times import request_times

_Counts = tuple[int, ...]


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
        completion_tokens_details=_details_of(group, last_outputs),
    )


def metrics_of(last_outputs: Sequence[RequestOutput]) -> Metrics:
    """What drafting did for the request, and how long it took. Means of nothing are null."""
    each = [output.speculation for output in last_outputs]
    total = _sum(each)
    steps, drafted = total.num_spec_steps, total.num_draft_tokens
    metrics = SpeculativeDecodingMetrics(
        mean_acceptance_length=total.mean_acceptance_length if steps else None,
        draft_acceptance_rate=total.num_accepted_draft_tokens / drafted if drafted else None,
        acceptance_histogram=list(_add(total.histogram, (0,) * (total.num_spec_tokens + 1))),
        num_spec_steps=steps,
        num_accepted_draft_tokens=total.num_accepted_draft_tokens,
        num_draft_tokens=drafted,
        num_spec_tokens=total.num_spec_tokens,
        policy=total.policy,
        sources=_sources_of(total),
        num_expected_draft_tokens=total.num_expected_draft_tokens,
        predicted_seconds=total.predicted_seconds,
        seconds=total.seconds,
    )
    if len(each) == 1 and total.per_step:  # of several choices, nobody could tell whose steps
        metrics.per_step_drafted, metrics.per_step_accepted = map(
            list, zip(*total.per_step, strict=True)
        )
    return Metrics(speculative_decoding=metrics, **_times(last_outputs))


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


def _details_of(
    group: RequestGroup, last_outputs: Sequence[RequestOutput]
) -> CompletionTokensDetails:
    details = CompletionTokensDetails(reasoning_tokens=0, audio_tokens=0)
    if any(request.prediction for request in group.requests):
        total = _sum([output.speculation for output in last_outputs])
        accepted = _count(total.accepted_by, PREDICTED)
        details.accepted_prediction_tokens = accepted
        details.rejected_prediction_tokens = _count(total.drafted_by, PREDICTED) - accepted
    return details


def _sources_of(total: SpeculationStats) -> dict[str, SourceMetrics]:
    return {
        name: SourceMetrics(
            num_draft_tokens=drafted,
            num_accepted_draft_tokens=_count(total.accepted_by, number),
        )
        for number, name in enumerate(SOURCES)
        if (drafted := _count(total.drafted_by, number))
    }


def _count(counts: _Counts, source: int) -> int:
    return counts[source] if source < len(counts) else 0


def _sum(each: Sequence[SpeculationStats]) -> SpeculationStats:
    return reduce(_add_up, each) if each else SpeculationStats()


def _add_up(left: SpeculationStats, right: SpeculationStats) -> SpeculationStats:
    return SpeculationStats(
        policy=left.policy,
        num_spec_tokens=left.num_spec_tokens,
        num_spec_steps=left.num_spec_steps + right.num_spec_steps,
        num_draft_tokens=left.num_draft_tokens + right.num_draft_tokens,
        num_accepted_draft_tokens=left.num_accepted_draft_tokens + right.num_accepted_draft_tokens,
        histogram=_add(left.histogram, right.histogram),
        num_expected_draft_tokens=left.num_expected_draft_tokens + right.num_expected_draft_tokens,
        predicted_seconds=left.predicted_seconds + right.predicted_seconds,
        seconds=left.seconds + right.seconds,
        drafted_by=_add(left.drafted_by, right.drafted_by),
        accepted_by=_add(left.accepted_by, right.accepted_by),
    )


def _add(left: _Counts, right: _Counts) -> _Counts:
    return tuple(a + b for a, b in zip_longest(left, right, fillvalue=0))
