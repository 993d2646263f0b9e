"""Seconds over rows as one SVG drawing: a line a context, the draft level, and the floor."""

from __future__ import annotations

from cast_profiler.profile import Profile
from cast_profiler.surface import Surface
from cast_server.profiling.plot import COLOURS, Labels, Level, Line, Point, plot

_DRAFT = "#777777"


def draw(profile: Profile) -> str:
    """The <svg> element."""
    lines = [
        Line(f"verify, {keys} keys", colour, _points(profile.verify, keys))
        for keys, colour in zip(_contexts(profile.verify), COLOURS, strict=False)
    ]
    if profile.draft is not None:
        keys = _contexts(profile.draft)[0]
        lines.append(Line(f"draft level, {keys} keys", _DRAFT, _points(profile.draft, keys), "6 4"))
    floor = 1e3 * profile.memory.seconds
    labels = Labels("cost curves", x="rows in the pass", y="ms")
    return plot(lines, labels, Level(f"floor {floor:.2f} ms", floor))


def _contexts(surface: Surface) -> list[int]:
    return sorted({point.keys for point in surface.points if point.sequences == 1})


def _points(surface: Surface, keys: int) -> tuple[Point, ...]:
    chosen = [one for one in surface.points if one.sequences == 1 and one.keys == keys]
    chosen.sort(key=lambda one: one.rows)
    milliseconds = [(1e3 * one.seconds, 1e3 * one.spread / 2) for one in chosen]
    return tuple(
        Point(one.rows, y, y - half, y + half)
        for one, (y, half) in zip(chosen, milliseconds, strict=True)
    )
