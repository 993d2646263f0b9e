"""Figures as Markdown, as JSON and in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from cast_bench.serve.answer import Answer
from cast_bench.serve.metrics import LATENCIES

_SHOWN: Final = ("mean", "median", "p90", "p95", "p99")
_LAGGING: Final = 20.0  # milliseconds: more than steps of a fast server take

Figures = Mapping[str, Any]


def markdown(points: Sequence[Figures]) -> str:
    """A table with a row a point, then one of latencies for each, and what to know beside them."""
    header = (
        "| requests/s | at a time | completed | failed | req/s | output tok/s | good | TTFT "
        "| TPOT | E2EL |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    details = [f"{_title(point)}\n\n{_latencies(point)}\n\n{_notes(point)}" for point in points]
    table = "\n".join([header, *map(_row, points)])
    return "\n\n".join([table, "TTFT, TPOT, E2EL: median / p99, in milliseconds.", *details])


def verdict(points: Sequence[Figures]) -> str:
    """One line; of a sweep, its best point and all its failures."""
    best = max(
        points, key=lambda point: (point["request_goodput"] or 0, point["output_throughput"])
    )
    ended = sum(point["completed"] + point["failed"] for point in points)
    completed = sum(point["completed"] for point in points)
    line = f"{completed} of {ended} requests answered"
    line += f"; best at {_title(best)}" if len(points) > 1 else ""
    line += (
        f": {best['request_throughput']:.2f} requests/s, {best['output_throughput']:.1f} tokens/s"
    )
    line += f", median TTFT {_number(best['median_ttft_ms'])} ms"
    line += f", TPOT {_number(best['median_tpot_ms'])} ms"
    if best["good_share"] is not None:
        line += f"; {best['good_share']:.0%} within {_words(best['goodput'])}"
    return line + ("; INTERRUPTED." if any(point["interrupted"] for point in points) else ".")


def detailed(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Every request by itself, with the times of its chunks in seconds."""
    return [asdict(answer) for answer in sorted(answers, key=lambda one: one.index)]


def _row(point: Figures) -> str:
    share = point["good_share"]
    cells = [
        point["request_rate"],
        point["max_concurrency"] or "no limit",
        point["completed"],
        point["failed"],
        f"{point['request_throughput']:.2f}",
        f"{point['output_throughput']:.1f}",
        "-" if share is None else f"{share:.0%}",
        *(_pair(point, name) for name in ("ttft", "tpot", "e2el")),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _pair(point: Figures, name: str) -> str:
    return f"{_number(point[f'median_{name}_ms'])} / {_number(point[f'p99_{name}_ms'])}"


def _title(point: Figures) -> str:
    limit = point["max_concurrency"]
    at_a_time = f"{limit} at a time" if limit else "no limit"
    return f"{point['request_rate']} requests/s, {at_a_time}"


def _latencies(point: Figures) -> str:
    lines = [f"| ms | {' | '.join(_SHOWN)} |", "|---|" + "---|" * len(_SHOWN)]
    for name in LATENCIES:
        cells = [_number(point[f"{statistic}_{name}_ms"]) for statistic in _SHOWN]
        lines.append(f"| {name.upper()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _notes(point: Figures) -> str:
    notes = [
        f"{point['total_output_tokens']} tokens out, {_told(point['total_input_tokens'])} in "
        f"({_told(point['total_cached_tokens'])} of them cached) in {point['duration']:.1f} s; "
        f"{point['mean_concurrency']:.1f} requests at a time on average."
    ]
    notes += [
        f"FAILED {told['count']} times: {name}: {told['message']}"
        for name, told in point["failures"].items()
    ]
    if point["interrupted"]:
        notes.append(f"Interrupted: {point['unfinished']} unfinished, {point['unsent']} unsent.")
    notes += _counting(point) + _conditions(point)
    return "\n".join(f"- {note}" for note in notes)


def _counting(point: Figures) -> list[str]:
    notes = []
    if point["output_tokens_counted_in"] == "chunks":
        notes.append("The server tells no usage: output tokens and TPOT count chunks.")
    if point["itl_counted_in"] == "chunks":
        notes.append("The server does not tell how many tokens a chunk has: ITL is per chunk.")
    if told := point["spec_decode"]:
        rate, length = told["draft_acceptance_rate"], told["mean_acceptance_length"]
        notes.append(
            f"Speculation, of {told['requests']} requests: {told['num_accepted_draft_tokens']} of "
            f"{told['num_draft_tokens']} drafted tokens accepted"
            + ("" if rate is None else f" ({rate:.1%})")
            + ("." if length is None else f", {length:.2f} tokens a step.")
        )
    return notes


def _conditions(point: Figures) -> list[str]:
    notes = []
    if point["distinct_prompts"] < point["num_prompts"]:
        notes.append(
            f"Only {point['distinct_prompts']} different prompts among {point['num_prompts']}: a "
            "server that keeps prefixes answers repeated ones sooner."
        )
    lag = point["client_lag_ms"]["p99"]
    if lag is not None and lag > _LAGGING:
        notes.append(f"This client woke {lag:.0f} ms late (p99): its own load is in the figures.")
    return notes


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _told(value: int | None) -> str:
    return "an untold number" if value is None else str(value)


def _words(objectives: Mapping[str, float]) -> str:
    return " ".join(f"{name}:{limit:g}" for name, limit in objectives.items())
