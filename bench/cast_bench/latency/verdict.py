"""A run in one sentence, and whether it passes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from cast_bench.latency.figures import batch_times_off, times_off
from cast_bench.latency.iteration import Iteration, Verdict
from cast_bench.ratios import Ratio

_CALLED: Final[tuple[tuple[Verdict, str], ...]] = (
    ("near tie", "at a near tie"),
    ("bug", "beyond rounding"),
    ("not judged", "not judged"),
)
_EVEN: Final = 0.05  # how far an interval around 1 may reach for two sides to be called equal


def verdict(iterations: Sequence[Iteration], policies: Sequence[str]) -> str:
    """Of `cast`, or of all policies where it did not run: the mean request, and the last one of
    batches where that is surely slower; and are outputs those of `off`?"""
    first, *others = sorted({one.batch_size for one in iterations})
    parts = []
    for policy in judged(policies):
        told = [_told(times_off(iterations, policy, first), " to plain decoding")]
        told[0] = f"{told[0]} at batch {first}"
        told += [f"{_told(times_off(iterations, policy, size))} at {size}" for size in others]
        parts.append(f"{policy} is {', '.join(told)}")
        last = [(batch_times_off(iterations, policy, size), size) for size in (first, *others)]
        slow = [f"{one.median:.2f}x at {size}" for one, size in last if size > 1 and one.high < 1]
        if slow:
            parts.append(f"the last request of a batch {', '.join(slow)}")
    return "; ".join([*parts, _identity(iterations)])


def passes(
    iterations: Sequence[Iteration], policies: Sequence[str], fail_under: float = 0.0
) -> bool:
    """No bug among the differences, and no interval that lies below `fail_under` as a whole.

    The interval, as the median of two equal sides is below 1 every other time. A ratio that is not
    known does not pass.
    """
    if any(one.verdict == "bug" for some in iterations for one in some.differences):
        return False
    sizes = {one.batch_size for one in iterations}
    return fail_under <= 0 or all(
        times_off(iterations, policy, size).high >= fail_under
        for policy in judged(policies)
        for size in sizes
    )


def judged(policies: Sequence[str]) -> list[str]:
    """Those that a verdict is about."""
    return ["cast"] if "cast" in policies else [one for one in policies if one != "off"]


def _told(one: Ratio, base: str = "") -> str:
    if math.isnan(one.median):
        return f"not comparable{base}"
    is_sure = not one.low <= 1 <= one.high
    if not is_sure and max(1 - one.low, one.high - 1) <= _EVEN:
        return f"equal{base}"
    told = f"{one.median:.2f}x{base.removeprefix(' to')}"
    return told if is_sure else f"{told} (between {one.low:.2f} and {one.high:.2f})"


def _identity(iterations: Sequence[Iteration]) -> str:
    counts = Counter(one.verdict for some in iterations for one in some.differences)
    if not counts:
        return "outputs identical"
    parts = [f"{counts[name]} {told}" for name, told in _CALLED if counts[name]]
    return f"outputs differ: {', '.join(parts)}"
