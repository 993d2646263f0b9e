"""Simulated ratios as one self-contained HTML page: a drawing for each context, and the tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import cycle
from typing import Any, Final

from cast_bench.simulate.engine import Cell
from cast_bench.simulate.report import OFF, batch_sizes, contexts, named, policies, speed

_WIDTH, _HEIGHT = 880, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 150, 24, 44
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe, Ito
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }
pre { overflow-x: auto; background: #f6f6f6; padding: 0.8rem }
svg { width: 100%; height: auto } svg text { font: 12px system-ui, sans-serif; fill: #222 }
.grid { stroke: #e4e4e4 } .even { stroke: #000; stroke-dasharray: 2 3 }
"""


def to_html(title: str, note: str, table: str, cells: Sequence[Cell], facts: Any) -> str:
    """Needs nothing from anywhere else. `table` is Markdown, `facts` plain JSON values."""
    drawings = "\n".join(
        f"<h2>With {escape(named(one))}</h2>\n{draw(cells, one)}" for one in contexts(cells)
    )
    return f"""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
<h1>{escape(title)}</h1>
<p><strong>{escape(note)}</strong></p>
{drawings}
<h2>Figures</h2>
<pre>{escape(table)}</pre>
<h2>Where they come from</h2>
<pre>{escape(json.dumps(facts, indent=2, ensure_ascii=False))}</pre>
</html>
"""


def draw(cells: Sequence[Cell], context: int | None) -> str:
    """The <svg> element: tokens a second over those of plain decoding, by batch size."""
    sizes = batch_sizes(cells)
    plain = [speed(cells, OFF, size, context) for size in sizes]
    lines = {
        policy: [
            speed(cells, policy, n, context) / one for n, one in zip(sizes, plain, strict=True)
        ]
        for policy in policies(cells)
        if policy != OFF
    }
    highest = max([1.2, *(1.08 * one for some in lines.values() for one in some if one == one)])
    body = [*_grid(sizes, highest)]
    for number, ((policy, ratios), colour) in enumerate(zip(lines.items(), cycle(_COLOURS))):
        points = [(_x(n, sizes), _y(r, highest)) for n, r in zip(sizes, ratios, strict=True)]
        body += _line(policy, colour, points, number)
    view = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {view} role="img" aria-label="speed-ups">\n' + "\n".join(body) + "\n</svg>"


def _x(size: int, sizes: Sequence[int]) -> float:
    span = math.log(sizes[-1] / sizes[0]) or 1.0
    return _LEFT + math.log(size / sizes[0]) / span * (_WIDTH - _LEFT - _RIGHT)


def _y(ratio: float, highest: float) -> float:
    return _HEIGHT - _BOTTOM - ratio / highest * (_HEIGHT - _TOP - _BOTTOM)


def _grid(sizes: Sequence[int], highest: float) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    step = next(one for one in (0.2, 0.5, 1.0, 2.0, 5.0, math.inf) if highest / one <= 10)
    for index in range(int(highest / step) + 1):
        y = _y(index * step, highest)
        yield f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        yield _text(_LEFT - 8, y + 4, f"{index * step:.1f}", "end")
    even = _y(1.0, highest)
    yield f'<line x1="{_LEFT}" x2="{right}" y1="{even:.1f}" y2="{even:.1f}" class="even"/>'
    yield from (_text(_x(one, sizes), bottom + 18, str(one), "middle") for one in sizes)
    yield _text((_LEFT + right) / 2, _HEIGHT - 8, "requests at a time", "middle")
    yield _text(8, _TOP - 8, "tokens/s, times those of off", "start")


def _line(
    policy: str, colour: str, points: Sequence[tuple[float, float]], number: int
) -> Iterator[str]:
    points = [one for one in points if not math.isnan(one[1])]
    style = f'fill="none" stroke="{colour}" stroke-width="2"'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" {style}/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
    left, y = _WIDTH - _RIGHT + 14, _TOP + 12 + 22 * number
    yield f'<line x1="{left}" x2="{left + 22}" y1="{y}" y2="{y}" {style}/>'
    yield _text(left + 28, y + 4, policy, "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
