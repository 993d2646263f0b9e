"""A line of the log every few seconds while the engine is busy: how fast, how full, how right."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from cast_server.engine.ledger import Figures, Ledger
from cast_server.observing.families import Engine

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Beat:
    """What happened between two looks at an engine, rates in tokens a second.

    acceptance_length: tokens of a step that had drafts, the bonus token included. The means of
    step seconds are of steps that only decoded. None where nothing of the kind happened.
    """

    generated: float
    prompts: float
    running: int
    waiting: int
    kv_usage: float
    cache_hits: float | None
    acceptance_length: float | None
    step_seconds: float | None
    predicted_seconds: float | None

    def __str__(self) -> str:
        parts = [
            f"{self.generated:.1f} tokens/s, prompts {self.prompts:.1f} tokens/s",
            f"running {self.running}, waiting {self.waiting}",
            f"KV cache {self.kv_usage:.1%}",
        ]
        if self.cache_hits is not None:
            parts.append(f"prefix hits {self.cache_hits:.1%}")
        if self.acceptance_length is not None:
            parts.append(f"acceptance length {self.acceptance_length:.2f}")
        if self.step_seconds is not None and self.predicted_seconds is not None:
            actual, predicted = 1e3 * self.step_seconds, 1e3 * self.predicted_seconds
            parts.append(f"steps {actual:.1f} ms, predicted {predicted:.1f} ms")
        return "; ".join(parts)


async def beat(engine: Engine, every: float) -> None:
    """Writes a line after each `every` seconds in which there was work. Runs until cancelled."""
    before, then = engine.figures(), time.monotonic()
    while True:
        await asyncio.sleep(every)
        after, now = engine.figures(), time.monotonic()
        if is_busy(before, after):
            _log.info("%s", compare(before, after, now - then))
        before, then = after, now


def is_busy(before: Figures, after: Figures) -> bool:
    """Whether clients' requests were worked on in between, or still are."""
    is_waited_for = after.running or after.waiting
    return bool(is_waited_for or _tokens(after.ledger) != _tokens(before.ledger))


def compare(before: Figures, after: Figures, seconds: float) -> Beat:
    """What happened in between."""
    old, new = before.ledger, after.ledger
    prompts = new.prompt_tokens - old.prompt_tokens
    steps = new.step_seconds.count - old.step_seconds.count
    return Beat(
        generated=(new.generation_tokens - old.generation_tokens) / seconds,
        prompts=prompts / seconds,
        running=after.running,
        waiting=after.waiting,
        kv_usage=after.kv_usage,
        cache_hits=_ratio(new.cached_tokens - old.cached_tokens, prompts),
        acceptance_length=_length(old, new),
        step_seconds=_ratio(new.step_seconds.total - old.step_seconds.total, steps),
        predicted_seconds=_ratio(new.predicted_seconds.total - old.predicted_seconds.total, steps),
    )


def _length(old: Ledger, new: Ledger) -> float | None:
    accepted = _ratio(new.accepted_tokens - old.accepted_tokens, new.drafts - old.drafts)
    return None if accepted is None else 1 + accepted


def _tokens(ledger: Ledger) -> int:
    return ledger.generation_tokens + ledger.prompt_tokens


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
