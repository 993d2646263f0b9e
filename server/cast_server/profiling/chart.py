"""Seconds over rows as one SVG drawing: a line a context, the draft level, and the floor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from cast_profiler.profile import Profile
from cast_profiler.surface import Measurement, Surface

_WIDTH, _HEIGHT = 880, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 20, 48
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")  # Okabe and Ito's
_DRAFT, _FLOOR = "#777777", "#000000"


@dataclass(frozen=True, slots=True)
class Line:
    """Points (rows, milliseconds, spread in milliseconds), rising in rows."""

    name: str
    colour: str
    points: tuple[tuple[int, float, float], ...]
    dashes: str = ""


def draw(profile: Profile) -> str:
    """The <svg> element."""
    lines = [
        Line(f"verify, {keys} keys", colour, _points(profile.verify, keys))
        for keys, colour in zip(_contexts(profile.verify), _COLOURS, strict=False)
    ]
    if profile.draft is not None:
        keys = _contexts(profile.draft)[0]
        lines.append(Line(f"draft level, {keys} keys", _DRAFT, _points(profile.draft, keys), "6 4"))
    floor = 1e3 * profile.memory.seconds
    axes = _Axes.around(lines, floor)
    body = [*axes.grid(), *_floor(axes, floor)]
    for number, line in enumerate(lines):
        body += _line(axes, line, number)
    view = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {view} role="img" aria-label="cost curves">\n' + "\n".join(body) + "\n</svg>"


@dataclass(frozen=True, slots=True)
class _Axes:
    """Linear scales from 0 up to `rows` and `milliseconds`."""

    rows: float
    milliseconds: float

    @classmethod
    def around(cls, lines: Sequence[Line], floor: float) -> _Axes:
        points = [point for line in lines for point in line.points]
        return cls(
            max(rows for rows, _, _ in points),
            1.08 * max(floor, *(ms + spread / 2 for _, ms, spread in points)),
        )

    def x(self, rows: float) -> float:
        return _LEFT + rows / self.rows * (_WIDTH - _LEFT - _RIGHT)

    def y(self, milliseconds: float) -> float:
        return _HEIGHT - _BOTTOM - milliseconds / self.milliseconds * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> Iterator[str]:
        bottom, right = self.y(0), self.x(self.rows)
        for tick in _ticks(self.milliseconds):
            y = self.y(tick)
            yield f'<line x1="{_LEFT}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            yield _text(_LEFT - 8, y + 4, f"{tick:g}", "end")
        for tick in _ticks(self.rows):
            x = self.x(tick)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom:.1f}" class="grid"/>'
            yield _text(x, bottom + 18, f"{tick:g}", "middle")
        yield _text((_LEFT + right) / 2, _HEIGHT - 8, "rows in the pass", "middle")
        yield _text(8, _TOP - 4, "ms", "start")


def _line(axes: _Axes, line: Line, number: int) -> Iterator[str]:
    path = " ".join(f"{axes.x(rows):.1f},{axes.y(ms):.1f}" for rows, ms, _ in line.points)
    style = f'fill="none" stroke="{line.colour}" stroke-width="2" stroke-dasharray="{line.dashes}"'
    yield f'<polyline points="{path}" {style}/>'
    for rows, ms, spread in line.points:
        x, low, high = axes.x(rows), axes.y(max(0.0, ms - spread / 2)), axes.y(ms + spread / 2)
        bar = f'x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"'
        yield f'<line {bar} stroke="{line.colour}"/>'
        hint = f"<title>{escape(line.name)}: {rows} rows, {ms:.2f} ms</title>"
        centre = f'cx="{x:.1f}" cy="{axes.y(ms):.1f}"'
        yield f'<circle {centre} r="3" fill="{line.colour}">{hint}</circle>'
    left, y = _WIDTH - _RIGHT + 14, _TOP + 12 + 22 * number
    yield f'<line x1="{left}" x2="{left + 22}" y1="{y}" y2="{y}" {style}/>'
    yield _text(left + 28, y + 4, line.name, "start")


def _floor(axes: _Axes, milliseconds: float) -> Iterator[str]:
    y = axes.y(milliseconds)
    ends = f'x1="{_LEFT}" x2="{axes.x(axes.rows):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
    yield f'<line {ends} stroke="{_FLOOR}" stroke-dasharray="2 3"/>'
    yield _text(axes.x(axes.rows) + 6, y + 4, f"floor {milliseconds:.2f} ms", "start")


def _contexts(surface: Surface) -> list[int]:
    return sorted({point.keys for point in surface.points if point.sequences == 1})


def _points(surface: Surface, keys: int) -> tuple[tuple[int, float, float], ...]:
    chosen: list[Measurement] = [
        point for point in surface.points if point.sequences == 1 and point.keys == keys
    ]
    chosen.sort(key=lambda point: point.rows)
    return tuple((point.rows, 1e3 * point.seconds, 1e3 * point.spread) for point in chosen)


def _ticks(highest: float) -> list[float]:
    """From 0 in steps of 1, 2 or 5 times a power of ten, at most ten of them."""
    rough = highest / 10
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * index for index in range(int(highest / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
