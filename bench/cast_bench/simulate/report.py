"""Tables of simulated cells: plain decoding's tokens a second, and how many times that others give.

Over several data sets, both are geometric means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from cast_bench.simulate.engine import Cell
from cast_bench.simulate.hardware import Hardware
from cast_bench.simulate.trace import Trace

OFF = "off"


def speed(cells: Sequence[Cell], policy: str, batch_size: int, context: int | None) -> float:
    """Tokens a second."""
    key = policy, batch_size, context
    speeds = [one.speed for one in cells if (one.policy, one.batch_size, one.context) == key]
    if not speeds or not all(speeds):
        return math.nan
    return math.exp(sum(map(math.log, speeds)) / len(speeds))


def policies(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(one.policy for one in cells))


def batch_sizes(cells: Sequence[Cell]) -> list[int]:
    return sorted({one.batch_size for one in cells})


def contexts(cells: Sequence[Cell]) -> list[int | None]:
    return list(dict.fromkeys(one.context for one in cells))


def named(context: int | None) -> str:
    return "the prompts' own context" if context is None else f"{context:,} tokens of context"


def markdown(trace: Trace, hardware: Hardware, host_scale: float, cells: Sequence[Cell]) -> str:
    lines = [f"# {hardware.name}", "", f"**{hardware.note}**", *notes(trace, host_scale)]
    for context in contexts(cells):
        lines += ["", f"## With {named(context)}", "", *_table(cells, context, hardware)]
    return "\n".join(lines) + "\n"


def notes(trace: Trace, host_scale: float) -> Iterator[str]:
    recorded = trace.recorded
    answers = f"{len(trace.scripts)} answers of {recorded.model}"
    yield ""
    yield f"Acceptance is that of {answers}, drafts by {recorded.drafter}; greedy. Other targets"
    yield "and heads accept otherwise. Reading prompts takes no time here. Speeds of `off` are"
    yield "tokens a second, of all requests together; of the others, ratios to it. GB held are"
    yield "weights and KV cache; whether a device has as much memory is not asked here."
    yield ""
    if host_scale:
        yield f"The host's work counts {host_scale:g} times what it took where the trace was taken."
    else:
        yield "The host's work is left out (`--host-scale` counts it)."


def _table(cells: Sequence[Cell], context: int | None, hardware: Hardware) -> Iterator[str]:
    others = [one for one in policies(cells) if one != OFF]
    yield "| batch | GB held | off, tokens/s | " + " | ".join(others) + " |"
    yield "|---" * (3 + len(others)) + "|"
    for size in batch_sizes(cells):
        plain = speed(cells, OFF, size, context)
        ratios = [f"{speed(cells, one, size, context) / plain:.2f}" for one in others]
        held = _held(hardware, size, context)
        yield f"| {size} | {held} | {plain:.1f} | " + " | ".join(ratios) + " |"


def _held(hardware: Hardware, batch_size: int, context: int | None) -> str:
    held = hardware.bytes_held(batch_size * context) if context is not None else None
    return "" if held is None else f"{held / 1e9:,.0f}"
