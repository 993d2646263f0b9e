"""What was measured, as Markdown and as a document for JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cast_bench.kernels.measuring import Findings, Result
from cast_bench.kernels.timing import Roof


def markdown(findings: Findings, roof: Roof) -> str:
    """Times in microseconds: the median, and where the middle half of the calls lies."""
    lines = [
        f"Memory copies at {roof.copied / 1e9:.1f} GB/s and reads at {roof.read / 1e9:.1f} GB/s, "
        f"measured; floors: {roof.source}, {roof.bytes_per_second / 1e9:.1f} GB/s.",
        "",
        "| op | shape | MB | floor, µs | backend | median, µs | middle half | floor / median |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, findings.results),
    ]
    if roof.is_disturbed and roof.copied_after is not None:
        lines.append(
            f"\nThe machine was disturbed: when all was done, memory copied at "
            f"{roof.copied_after / 1e9:.1f} GB/s. Measure again."
        )
    lines += [f"\n{what} cannot be used here: {why}" for what, why in findings.skipped.items()]
    return "\n".join(lines)


def _line(result: Result) -> str:
    low, median, high = quartiles(result.seconds)
    backend = f"({result.backend})" if result.is_baseline else result.backend
    return (
        f"| {result.op} | {result.shape} | {result.work.bytes_moved / 1e6:.3g} "
        f"| {1e6 * result.floor_seconds:.3g} | {backend} | {1e6 * median:.1f} "
        f"| {1e6 * low:.1f} to {1e6 * high:.1f} | {result.floor_seconds / median:.3g} |"
    )


def quartiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """The middle one is the median."""
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, median, high


def document(findings: Findings, roof: Roof) -> dict[str, Any]:
    """Every time, in seconds, beside what it is to be compared with."""
    return {
        "roof": asdict(roof),
        "results": [
            asdict(result) | {"seconds": [float(f"{one:.4g}") for one in result.seconds]}
            for result in findings.results
        ],
        "refused": findings.refused,
        "skipped": findings.skipped,
    }
