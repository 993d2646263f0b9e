"""A run as one self-contained HTML page: verdict, drawings, the table, where it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from itertools import cycle
from typing import Any

from cast_bench.latency.figures import Figures
from cast_bench.latency.iteration import Iteration
from cast_bench.latency.report import HEAD, NOTES, differences, row
from cast_server.profiling.page import page
from cast_server.profiling.plot import COLOURS, Labels, Level, Line, Point, plot

_LineOf = Callable[[Sequence[Figures]], tuple[Point, ...]]


def to_html(
    figures: Sequence[Figures],
    iterations: Sequence[Iteration],
    told: str,
    provenance: dict[str, Any],
) -> str:
    """Needs nothing from anywhere else. `told` is the verdict."""
    names = tuple(str(size) for size in sorted({one["batch_size"] for one in figures}))
    some = "".join(f"<li>{escape(one)}</li>" for one in differences(iterations))
    body = f"""\
<p><strong>{escape(told)}</strong></p>
<h2>Times plain decoding</h2>
{_drawn(figures, _ratios, Labels("times off", "batch size", "x", names), Level("off", 1.0))}
<h2>Time per token</h2>
{_drawn(figures, _per_token, Labels("time per token", "batch size", "ms", names))}
<h2>Accepted at depth, smallest batch</h2>
{_drawn(figures, _depths, Labels("acceptance by depth", "depth", "share"))}
<h2>Where decoding steps go</h2>
{_shares(figures)}
<h2>Figures</h2>
{_table(figures)}
<p>{escape(NOTES)}</p>
<ul>{some}</ul>
<h2>Where they come from</h2>
<pre>{escape(json.dumps(provenance, indent=2, ensure_ascii=False))}</pre>"""
    return page("Decode strategies against plain decoding", body)


def _drawn(
    figures: Sequence[Figures], points: _LineOf, labels: Labels, level: Level | None = None
) -> str:
    """A line a policy, in its own colour wherever it has points."""
    policies = dict.fromkeys(one["policy"] for one in figures)
    lines = [
        Line(policy, colour, points([one for one in figures if one["policy"] == policy]))
        for policy, colour in zip(policies, cycle(COLOURS), strict=False)
    ]
    lines = [line for line in lines if line.points]
    return plot(lines, labels, level) if lines else "<p>Nothing to draw.</p>"


def _ratios(mine: Sequence[Figures]) -> tuple[Point, ...]:
    told = [(i, one["times_off"]) for i, one in enumerate(mine) if one["policy"] != "off"]
    return tuple(
        Point(i, one["median"], one["low"], one["high"])
        for i, one in told
        if one["median"] is not None
    )


def _per_token(mine: Sequence[Figures]) -> tuple[Point, ...]:
    values = [(i, one["median_tpot_ms"]) for i, one in enumerate(mine)]
    return tuple(Point(i, ms, ms, ms) for i, ms in values if ms is not None)


def _depths(mine: Sequence[Figures]) -> tuple[Point, ...]:
    shares = mine[0]["acceptance_by_depth"]
    return tuple(Point(depth, share, share, share) for depth, share in enumerate(shares, 1))


def _shares(figures: Sequence[Figures]) -> str:
    return "\n".join(
        f"<div>{escape(one['policy'])} at {one['batch_size']}</div>"
        f'<div class="share">{_bars(one["step_shares"])}</div>'
        for one in figures
        if one["step_shares"]
    )


def _bars(shares: dict[str, float]) -> str:
    return "".join(
        f'<span style="width:{100 * share:.1f}%;background:{colour};overflow:hidden" '
        f'title="{name} {share:.0%}">{name} {share:.0%}</span>'
        for (name, share), colour in zip(shares.items(), COLOURS, strict=False)
    )


def _table(figures: Sequence[Figures]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row(one)) for one in figures)
    return f"<table><tr>{head}</tr>\n" + "\n".join(f"<tr>{one}</tr>" for one in rows) + "</table>"
