"""Lines over two axes that begin at 0, as one SVG drawing that needs nothing from anywhere else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_WIDTH, _HEIGHT = 880, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 20, 48
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")  # Okabe and Ito's


@dataclass(frozen=True, slots=True)
class Point:
    """`low` and `high` are the ends of its bar, in units of `y`."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """Points in rising order of x."""

    name: str
    colour: str
    points: tuple[Point, ...]
    dashes: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """What the axes and the whole drawing are called; `x_names` of the places 0, 1, 2 … if these
    are not numbers."""

    title: str
    x: str
    y: str
    x_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Level:
    """A dotted line across."""

    name: str
    y: float


def plot(lines: Sequence[Line], labels: Labels, level: Level | None = None) -> str:
    """The <svg> element. There must be a point."""
    axes = _Axes.around(lines, labels, level)
    body = [*axes.grid(), *(_across(axes, level) if level else ())]
    for number, line in enumerate(lines):
        body += _drawn(axes, line, number)
    view = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    name = escape(labels.title, quote=True)
    return f'<svg {view} role="img" aria-label="{name}">\n' + "\n".join(body) + "\n</svg>"


@dataclass(frozen=True, slots=True)
class _Axes:
    """Linear scales from 0 up to `right` and `top`."""

    right: float
    top: float
    labels: Labels

    @classmethod
    def around(cls, lines: Sequence[Line], labels: Labels, level: Level | None) -> _Axes:
        points = [point for line in lines for point in line.points]
        right = max(point.x for point in points)
        top = max(point.high for point in points)
        return cls(right or 1.0, 1.08 * max(top, level.y if level else 0.0) or 1.0, labels)

    def x(self, value: float) -> float:
        return _LEFT + value / self.right * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self.top * (_HEIGHT - _TOP - _BOTTOM)

    def name(self, value: float) -> str:
        names = self.labels.x_names
        return names[int(value)] if names else f"{value:g}"

    def grid(self) -> Iterator[str]:
        bottom, right = self.y(0), self.x(self.right)
        for tick in _ticks(self.top):
            y = self.y(tick)
            yield f'<line x1="{_LEFT}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
            yield _text(_LEFT - 8, y + 4, f"{tick:g}", "end")
        names = self.labels.x_names
        for tick in range(len(names)) if names else _ticks(self.right):
            x = self.x(tick)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom:.1f}" class="grid"/>'
            yield _text(x, bottom + 18, self.name(tick), "middle")
        yield _text((_LEFT + right) / 2, _HEIGHT - 8, self.labels.x, "middle")
        yield _text(8, _TOP - 4, self.labels.y, "start")


def _drawn(axes: _Axes, line: Line, number: int) -> Iterator[str]:
    path = " ".join(f"{axes.x(point.x):.1f},{axes.y(point.y):.1f}" for point in line.points)
    style = f'fill="none" stroke="{line.colour}" stroke-width="2" stroke-dasharray="{line.dashes}"'
    yield f'<polyline points="{path}" {style}/>'
    for point in line.points:
        x, low, high = axes.x(point.x), axes.y(max(0.0, point.low)), axes.y(point.high)
        bar = f'x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"'
        yield f'<line {bar} stroke="{line.colour}"/>'
        told = f"{line.name}; {axes.labels.x} {axes.name(point.x)}: {point.y:.2f} {axes.labels.y}"
        centre = f'cx="{x:.1f}" cy="{axes.y(point.y):.1f}"'
        hint = f"<title>{escape(told)}</title>"
        yield f'<circle {centre} r="3" fill="{line.colour}">{hint}</circle>'
    left, y = _WIDTH - _RIGHT + 14, _TOP + 12 + 22 * number
    yield f'<line x1="{left}" x2="{left + 22}" y1="{y}" y2="{y}" {style}/>'
    yield _text(left + 28, y + 4, line.name, "start")


def _across(axes: _Axes, level: Level) -> Iterator[str]:
    y = axes.y(level.y)
    ends = f'x1="{_LEFT}" x2="{axes.x(axes.right):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
    yield f'<line {ends} stroke="#000000" stroke-dasharray="2 3"/>'
    yield _text(axes.x(axes.right) + 6, y + 4, level.name, "start")


def _ticks(highest: float) -> list[float]:
    """From 0 in steps of 1, 2 or 5 times a power of ten, at most ten of them."""
    rough = highest / 10
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * index for index in range(int(highest / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
