"""Simulated ratios as one self-contained HTML page: a drawing for each context, and the tables."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import Any

from cast_bench.simulate.engine import Cell
from cast_bench.simulate.report import OFF, batch_sizes, contexts, named, policies, speed
from cast_server.profiling.page import page
from cast_server.profiling.plot import COLOURS, Labels, Level, Line, Point, plot


def to_html(title: str, note: str, table: str, cells: Sequence[Cell], facts: Any) -> str:
    """Needs nothing from anywhere else. `table` is Markdown, `facts` plain JSON values."""
    drawings = "\n".join(
        f"<h2>With {escape(named(one))}</h2>\n{draw(cells, one)}" for one in contexts(cells)
    )
    body = f"""\
<p><strong>{escape(note)}</strong></p>
{drawings}
<h2>Figures</h2>
<pre>{escape(table)}</pre>
<h2>Where they come from</h2>
<pre>{escape(json.dumps(facts, indent=2, ensure_ascii=False))}</pre>"""
    return page(title, body)


def draw(cells: Sequence[Cell], context: int | None) -> str:
    """The <svg> element: tokens a second over those of plain decoding, by batch size."""
    sizes = batch_sizes(cells)
    lines = [
        Line(policy, colour, _points(cells, policy, sizes, context))
        for policy, colour in zip(_compared(cells), cycle(COLOURS), strict=False)
    ]
    lines = [line for line in lines if line.points]
    names = tuple(map(str, sizes))
    labels = Labels("speed-ups", "requests at a time", "tokens/s, times those of off", names)
    return plot(lines, labels, Level(OFF, 1.0)) if lines else "<p>Nothing to draw.</p>"


def _compared(cells: Sequence[Cell]) -> list[str]:
    return [policy for policy in policies(cells) if policy != OFF]


def _points(
    cells: Sequence[Cell], policy: str, sizes: Sequence[int], context: int | None
) -> tuple[Point, ...]:
    """Of the batch sizes at which something was counted."""
    ratios = [speed(cells, policy, n, context) / speed(cells, OFF, n, context) for n in sizes]
    return tuple(Point(i, r, r, r) for i, r in enumerate(ratios) if not math.isnan(r))
