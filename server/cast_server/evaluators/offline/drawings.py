"""What is drawn of an evaluator's summary. A new drawing is one function and one line below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from types import MappingProxyType
from typing import Any, Final

from cast_server.evaluators.offline.dots import Share, dots
from cast_server.profiling.plot import COLOURS, Labels, Line, Point, plot

_Summary = Mapping[str, Any]
_Drawn = Iterator[tuple[str, str]]


def drawings(document: Mapping[str, Any]) -> _Drawn:
    """Titles and <svg> elements, with a line for the model and one for the baseline."""
    names = document["models"]
    sides = [document.get("summary"), document.get("baseline_summary")]
    summaries = {name: side for name, side in zip(names, sides, strict=False) if side}
    for draw in _DRAWINGS.get(document["evaluator"], ()):
        yield from draw(summaries)
    if document["evaluator"] == "self_knowledge":
        yield from _calibration(document["items"])


def _layers(summaries: Mapping[str, _Summary]) -> _Drawn:
    """eRank over the layers, means over texts with their intervals."""
    layers = [one["layer"] for one in next(iter(summaries.values()), {"layers": []})["layers"]]
    if len(layers) < 2:
        return
    series = {
        name: [_estimate(x, one["erank"]) for x, one in enumerate(side["layers"])]
        for name, side in summaries.items()
    }
    labels = Labels("eRank by layer", "layer", "eRank", tuple(map(str, layers)))
    yield from _lines("eRank by layer", series, labels)


def _spectrum(summaries: Mapping[str, _Summary]) -> _Drawn:
    """Shares of variance of the first layer, largest first, means over texts."""
    series = {
        name: [_point(rank, value) for rank, value in enumerate(side["layers"][0]["spectrum"], 1)]
        for name, side in summaries.items()
        if side["layers"]
    }
    labels = Labels("spectrum", "direction, by variance", "share of variance")
    yield from _lines("Spectrum", series, labels)


def _depths(summaries: Mapping[str, _Summary]) -> _Drawn:
    """Expected acceptance by depth."""
    series = {
        name: [_point(depth, one) for depth, one in enumerate(side["alphas"], 1)]
        for name, side in summaries.items()
    }
    yield from _lines("Acceptance by depth", series, Labels("acceptance", "depth", "share"))


def _knowledge(summaries: Mapping[str, _Summary]) -> _Drawn:
    """For each arm, how often a task's text was as asked, and how often its answer was right."""
    rates = ("paper_score", "gen_compliance", "verify_accuracy", "unparsed_rate")
    for name, side in summaries.items():
        for arm in dict.fromkeys(one["arm"] for one in side["tasks"]):
            rows = {
                one["task"]: {rate: _share(one[rate]) for rate in rates}
                for one in side["tasks"]
                if one["arm"] == arm
            }
            title = f"{name}, {arm}: does it know what is written?"
            yield title, dots(rows, title)


def _share(rate: Mapping[str, Any]) -> Share | None:
    if rate["value"] is None:
        return None
    return Share(rate["value"], rate["low"], rate["high"])


def _calibration(items: Sequence[Mapping[str, Any]]) -> _Drawn:
    """Numbers that were answered against the right ones; bars from the least to the largest."""
    answers: dict[float, list[float]] = {}
    for item in items:
        for one in (item["result"] or {}).get("verifications", ()):
            truth, parsed = _number(one["truth"]), _number(one["parsed"])
            if truth is not None and parsed is not None and max(abs(truth), abs(parsed)) < _LARGE:
                answers.setdefault(truth, []).append(parsed)
    if len(answers) < 2:
        return
    middle = [
        Point(truth, median(some), min(some), max(some)) for truth, some in sorted(answers.items())
    ]
    right = [_point(truth, truth) for truth in (min(answers), max(answers))]
    labels = Labels("calibration", "right number", "answered, median")
    yield from _lines("Calibration of numbers", {"answered": middle, "right": right}, labels)


_LARGE: Final = 1000.0  # beyond it, one wild answer would flatten the drawing


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value >= 0 else None


def _lines(title: str, series: Mapping[str, Sequence[Point | None]], labels: Labels) -> _Drawn:
    lines = [
        Line(name, colour, tuple(point for point in points if point is not None))
        for (name, points), colour in zip(series.items(), COLOURS, strict=False)
    ]
    lines = [line for line in lines if line.points]
    if lines:
        yield title, plot(lines, labels)


def _point(x: float, y: float | None) -> Point | None:
    return None if y is None else Point(x, y, y, y)


def _estimate(x: float, one: Mapping[str, Any]) -> Point | None:
    return _bar(x, one["mean"], one["low"], one["high"])


def _bar(x: float, y: float | None, low: float | None, high: float | None) -> Point | None:
    if y is None:
        return None
    return Point(x, y, y if low is None else low, y if high is None else high)


_DRAWINGS: Final[Mapping[str, Sequence[Callable[[Mapping[str, _Summary]], Any]]]] = (
    MappingProxyType(
        {
            "erank": (_layers, _spectrum),
            "acceptance": (_depths,),
            "self_knowledge": (_knowledge,),
        }
    )
)
