"""Tables and a verdict for `cast_bench.policies`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from cast_bench.ratios import Ratio, geometric_mean, ratio

if TYPE_CHECKING:
    from cast_bench.policies import Cell

_Speeds = dict[str, list[float]]  # by policy, round after round

FIXED: Final = ("chain:", "tree:")  # what a sweep over shapes consists of


def speeds_of(cells: Sequence[Cell]) -> dict[tuple[int, str], _Speeds]:
    """By batch size and data set."""
    table: dict[tuple[int, str], _Speeds] = defaultdict(lambda: defaultdict(list))
    for cell in sorted(cells, key=lambda one: one.round):
        table[cell.batch_size, cell.dataset][cell.policy].append(cell.speed)
    return table


def worst_ratio(cells: Sequence[Cell]) -> float:
    """The least median ratio to `off`, over all cells of all other policies."""
    found = [
        ratio(some[policy], some["off"]).median
        for some in speeds_of(cells).values()
        for policy in some
        if policy != "off"
    ]
    return min(found, default=1.0)


def best_fixed(cells: Sequence[Cell], batch_size: int) -> str | None:
    """The chain or tree with the greatest mean ratio to `off` over the data sets."""
    tables = [some for (size, _), some in speeds_of(cells).items() if size == batch_size]
    names = {name for some in tables for name in some if name.startswith(FIXED)}
    means = {
        name: geometric_mean([(some[name], some["off"]) for some in tables]).median
        for name in names
    }
    return max(means, key=means.__getitem__, default=None)


def against(cells: Sequence[Cell], policy: str, other: str, batch_size: int | None) -> Ratio:
    """Geometric mean over data sets, and over batch sizes if None."""
    pairs = [
        (some[policy], some[other])
        for (size, _), some in speeds_of(cells).items()
        if batch_size in (None, size) and policy in some and other in some
    ]
    return geometric_mean(pairs)


def print_report(cells: Sequence[Cell], policies: Sequence[str]) -> str:
    """Prints and returns Markdown: speeds, ratios to `off`, what was expected beside what came."""
    sizes = sorted({cell.batch_size for cell in cells})
    lines = ["| batch | policy | tokens/s | times off | accepted + 1 | expected/accepted |"]
    lines.append("|---|---|---|---|---|---|")
    for size in sizes:
        for policy in policies:
            mine = [one for one in cells if one.batch_size == size and one.policy == policy]
            speed = float(np.median([one.speed for one in mine]))
            steps = sum(one.steps * one.batch_size for one in mine)
            accepted = sum(one.accepted for one in mine)
            share = f"{sum(one.expected for one in mine) / accepted:.2f}" if accepted else ""
            length = 1 + accepted / max(1, steps)
            lines.append(
                f"| {size} | {policy} | {speed:.1f} | {against(cells, policy, 'off', size)} "
                f"| {length:.2f} | {share} |"
            )
    lines += ["", *_summary(cells, policies, sizes)]
    report = "\n".join(lines) + "\n"
    print(report)
    return report


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
    different = sum(cell.different for cell in cells)
    parts = [
        f"{against(cells, policy, 'off', size).median:.2f}x off at {size}"
        for policy in policies
        if policy == "cast"
        for size in sizes
    ]
    same = "outputs identical" if not different else f"{different} outputs differ from those of off"
    return [*lines, "", f"cast is {', '.join(parts)}; {same}" if parts else same]
