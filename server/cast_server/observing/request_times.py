"""How long an HTTP request took, over all its choices. Seconds, None where there is nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cast_server.engine.request import RequestOutput


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Until its first step and its first token, from its arrival; from there to its last token.

    `mean_itl`: between the tokens of a choice. `tokens_per_second` since the first step.
    """

    queue: float | None = None
    first_token: float | None = None
    generation: float | None = None
    mean_itl: float | None = None
    tokens_per_second: float | None = None
    prefill: float | None = None
    inference: float | None = None
    total: float | None = None


def request_times(last_outputs: Iterable[RequestOutput]) -> RequestTimes:
    """`last_outputs[i]` ended choice i; those without timings are left out."""
    ended = [(one.timings, one.num_output_tokens) for one in last_outputs if one.timings]
    arrivals = [timings.queued for timings, _ in ended]
    scheduled = [timings.scheduled for timings, _ in ended if timings.scheduled is not None]
    firsts = [timings.first_token for timings, _ in ended if timings.first_token is not None]
    lasts = [timings.last_token for timings, _ in ended if timings.last_token is not None]
    finished = [timings.finished for timings, _ in ended if timings.finished is not None]
    arrived, begun = min(arrivals, default=None), min(scheduled, default=None)
    first, last = min(firsts, default=None), max(lasts, default=None)
    inference = _between(begun, last)
    intervals = sum(max(0, count - 1) for _, count in ended)
    decoding = sum(timings.decode_seconds or 0.0 for timings, _ in ended)
    num_tokens = sum(count for _, count in ended)
    return RequestTimes(
        queue=_between(arrived, begun),
        first_token=_between(arrived, first),
        generation=_between(first, last),
        mean_itl=decoding / intervals if intervals else None,
        tokens_per_second=num_tokens / inference if inference else None,
        prefill=_between(begun, first),
        inference=inference,
        total=_between(arrived, max(finished, default=None)),
    )


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else end - begin
