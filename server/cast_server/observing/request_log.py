"""The line of the log that every HTTP request ends with."""

from __future__ import annotations

import logging
from typing import Any, Final

from cast_server.engine.request import RequestOutput, SpeculationStats
from cast_server.observing.exchange import Exchange, Generation
from cast_server.observing.logs import with_fields
from cast_server.observing.request_times import request_times

_log = logging.getLogger(__name__)

_QUIET: Final = frozenset({"/health", "/metrics"})  # asked every few seconds, by machines
_LONGEST: Final = 200  # characters of a path that nobody serves


class RequestLog:
    """Writes the lines. No text of a prompt or an answer is in them, unless `keeps_texts`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def write(self, exchange: Exchange) -> None:
        """One line; a detail if only a monitor asked, a warning if the failure is ours."""
        level = logging.DEBUG if exchange.route in _QUIET else logging.INFO
        if exchange.status >= 500:
            level = logging.WARNING
        if _log.isEnabledFor(level):
            place = exchange.route or exchange.path[:_LONGEST]
            fields = http_fields(exchange) | generation_fields(exchange) | self._texts(exchange)
            _log.log(
                level,
                "%s %s %d",
                exchange.method,
                place.encode("unicode_escape").decode(),  # it may hold line breaks
                exchange.status,
                extra=with_fields(fields),
            )

    def _texts(self, exchange: Exchange) -> dict[str, Any]:
        kept = [one for one in exchange.generations if one.texts is not None]
        if not kept:
            return {}
        return {
            "prompts": [self._tokenizer.decode(one.request.prompt_token_ids) for one in kept],
            "answers": ["".join(one.texts or ()) for one in kept],
        }


def http_fields(exchange: Exchange) -> dict[str, Any]:
    """Who asked for what, and how it ended."""
    owners = {one.request.owner for one in exchange.generations}
    return {
        "request_id": exchange.request_id,
        "owner": ",".join(sorted(owners)),
        "method": exchange.method,
        "route": exchange.route,
        "status": exchange.status,
        "seconds": exchange.seconds,
        "error": exchange.error,
        "aborted": exchange.cause if exchange.unfinished else None,
    }


def generation_fields(exchange: Exchange) -> dict[str, Any]:
    """What the engine did for it; empty if nothing was asked of the engine."""
    if not exchange.generations:
        return {}
    outputs = [one.latest for one in exchange.generations]
    times = request_times(outputs)
    stats = [one.speculation for one in outputs]
    return {
        "choices": len(outputs),
        "finish_reason": _reasons(outputs),
        "prompt_tokens": num_prompt_tokens(exchange),
        "completion_tokens": sum(one.num_output_tokens for one in outputs),
        "cached_tokens": sum(one.latest.num_cached_tokens for one in _firsts(exchange)),
        "queue_seconds": times.queue,
        "ttft_seconds": times.first_token,
        "tokens_per_second": times.tokens_per_second,
        "policy": _policy(exchange.generations, stats),
        "drafted": sum(one.num_draft_tokens for one in stats),
        "accepted": sum(one.num_accepted_draft_tokens for one in stats),
    }


def num_prompt_tokens(exchange: Exchange) -> int:
    """Each prompt counts once, however many choices it got."""
    return sum(len(one.request.prompt_token_ids) for one in _firsts(exchange))


def _firsts(exchange: Exchange) -> list[Generation]:
    """The first choice of each prompt; the others find it in the cache because of that one."""
    firsts: dict[tuple[int, ...], Generation] = {}
    for one in exchange.generations:
        firsts.setdefault(one.request.prompt_token_ids, one)
    return list(firsts.values())


def _reasons(outputs: list[RequestOutput]) -> str:
    return ",".join(sorted({one.finish_reason or "abort" for one in outputs}))


def _policy(generations: list[Generation], stats: list[SpeculationStats]) -> str:
    """What decided, as the engine told; what was asked for, if it had not begun."""
    one, told = generations[0], stats[0]
    return told.policy if told.num_spec_steps else one.request.speculation.policy or told.policy
