"""Tables and a verdict for `cast_bench.policies`.

Speeds are of full, decoding steps; ratios are paired by round, as `cast_bench.ratios` has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

import numpy as np

from cast_bench.policy_cells import Cell
from cast_bench.ratios import Ratio, geometric_mean, ratio

_SHOWN: Final = 20  # differences; the file has them all
_Speeds = dict[str, list[float]]  # by policy, round after round

FIXED: Final = ("chain:", "tree:")  # what a sweep over shapes consists of
_SPEED: Final[Callable[[Cell], float]] = attrgetter("speed")
_BUSY_SPEED: Final[Callable[[Cell], float]] = attrgetter("busy_speed")
_WHOLE_SPEED: Final[Callable[[Cell], float]] = attrgetter("whole_speed")


def speeds_of(
    cells: Sequence[Cell], speed: Callable[[Cell], float] = _SPEED
) -> dict[tuple[int, str], _Speeds]:
    """By batch size and data set."""
    table: dict[tuple[int, str], _Speeds] = defaultdict(lambda: defaultdict(list))
    for cell in sorted(cells, key=lambda one: one.round):
        table[cell.batch_size, cell.dataset][cell.policy].append(speed(cell))
    return table


def worst_ratio(cells: Sequence[Cell]) -> float:
    """The least median ratio to `off`, over all cells of all other policies; NaN if one is."""
    found = [
        ratio(some[policy], some["off"]).median
        for some in speeds_of(cells).values()
        for policy in some
        if policy != "off"
    ]
    return float(np.min(found)) if found else 1.0


def best_fixed(cells: Sequence[Cell], batch_size: int) -> str | None:
    """The chain or tree with the greatest mean ratio to `off` over the data sets."""
    tables = [some for (size, _), some in speeds_of(cells).items() if size == batch_size]
    names = {name for some in tables for name in some if name.startswith(FIXED)}
    means = {
        name: geometric_mean([(some[name], some["off"]) for some in tables]).median
        for name in names
    }
    return max(means, key=means.__getitem__, default=None)


def against(
    cells: Sequence[Cell],
    policy: str,
    other: str,
    batch_size: int | None,
    speed: Callable[[Cell], float] = _SPEED,
) -> Ratio:
    """Geometric mean over data sets, and over batch sizes if None."""
    pairs = [
        (some[policy], some[other])
        for (size, _), some in speeds_of(cells, speed).items()
        if batch_size in (None, size) and policy in some and other in some
    ]
    return geometric_mean(pairs)


def print_report(
    cells: Sequence[Cell],
    policies: Sequence[str],
    bases: Sequence[str] = ("off",),
    by_set: bool = False,
) -> str:
    """Prints and returns Markdown: a table over all data sets, one for each with `by_set`."""
    sizes = sorted({cell.batch_size for cell in cells})
    lines = _table(cells, policies, bases)
    for name in dict.fromkeys(cell.dataset for cell in cells) if by_set else ():
        own = [cell for cell in cells if cell.dataset == name]
        lines += ["", f"{name}:", "", *_table(own, policies, bases)]
    lines += ["", *_summary(cells, policies, sizes), "", _verdict(cells, policies, sizes)]
    report = "\n".join(lines) + "\n"
    print(report)
    return report


def _table(cells: Sequence[Cell], policies: Sequence[str], bases: Sequence[str]) -> list[str]:
    """Speeds, ratios, what was expected beside what came."""
    times = [f"times {base}" for base in bases]
    head = [
        "batch",
        "policy",
        "tokens/s",
        *times,
        "with prompts, times off",
        "whole time, times off",
    ]
    head += ["accepted + 1", "expected/accepted"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for size in sorted({cell.batch_size for cell in cells}):
        shape = best_fixed(cells, size)
        for policy in policies:
            mine = [one for one in cells if one.batch_size == size and one.policy == policy]
            name = f"{policy} (best fixed)" if policy == shape else policy
            row = [str(size), name, f"{float(np.median([one.speed for one in mine])):.1f}"]
            row += [str(against(cells, policy, base, size)) for base in bases]
            for speed in (_BUSY_SPEED, _WHOLE_SPEED):
                row.append(str(against(cells, policy, "off", size, speed)))
            row += _acceptance(mine)
            lines.append(f"| {' | '.join(row)} |")
    return lines


def _acceptance(cells: Sequence[Cell]) -> tuple[str, str]:
    """Tokens of a verification, the bonus token included, and expected over accepted ones."""
    verified = sum(one.steps * one.batch_size for one in cells)
    accepted = sum(one.accepted for one in cells)
    share = f"{sum(one.expected for one in cells) / accepted:.2f}" if accepted else ""
    return f"{1 + accepted / max(1, verified):.2f}", share


def _summary(cells: Sequence[Cell], policies: Sequence[str], sizes: Sequence[int]) -> list[str]:
    lines = []
    if "cast" in policies:
        for size in sizes:
            shape = best_fixed(cells, size)
            if shape is not None:
                found = against(cells, "cast", shape, size)
                lines.append(f"- cast over the best fixed shape at {size} ({shape}): {found}")
        lines += [
            f"- cast over {other}, all batch sizes: {against(cells, 'cast', other, None)}"
            for other in policies
            if other != "cast" and not other.startswith(FIXED)
        ]
    for policy in policies:
        errors = [error for one in cells if one.policy == policy for error in one.errors]
        if errors:
            middle, high = np.quantile(errors, (0.5, 0.9)).tolist()
            lines.append(
                f"- {policy}: step times off by {middle:.1%} (median), {high:.1%} (90th percentile)"
            )
    differing = [(cell, one) for cell in cells for one in cell.differences]
    lines += [
        f"- {cell.policy} at {cell.batch_size}, {cell.dataset}, round {cell.round}: prompt "
        f"{one.prompt}, token {one.position}: {one.token}, not {one.plain_token}"
        for cell, one in differing[:_SHOWN]
    ]
    if len(differing) > _SHOWN:
        lines.append(f"- and {len(differing) - _SHOWN} more differences")
    return lines


def _verdict(cells: Sequence[Cell], policies: Sequence[str], sizes: Sequence[int]) -> str:
    """One line: of `cast`, or of all policies where it did not run."""
    asked = ["cast"] if "cast" in policies else [one for one in policies if one != "off"]
    different = sum(cell.different for cell in cells)
    parts = []
    for policy in asked:
        ratios = [against(cells, policy, "off", size).median for size in sizes]
        told = [f"{x:.2f}x off at {size}" for x, size in zip(ratios, sizes, strict=True)]
        parts.append(f"{policy} is {', '.join(told)}")
    same = "outputs identical" if not different else f"{different} outputs differ from those of off"
    return "; ".join([*parts, same])
