"""Two models on the same items: differences in pairs, and how far they may be off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from pydantic import BaseModel

from cast_server.evaluators.measures.intervals import paired_difference


class PairedDifference(BaseModel):
    """A metric of the model minus the baseline's, over the items that have it for both.

    interval: 95 %, by drawing items again (bootstrap, seed 0). left_out: items without a pair.
    """

    pairs: int
    left_out: int
    mean: float | None
    baseline_mean: float | None
    difference: float | None
    interval: tuple[float, float] | None
    reason: str | None = None


def compare(
    metrics: Sequence[str], ours: Mapping[int, BaseModel], theirs: Mapping[int, BaseModel]
) -> dict[str, PairedDifference]:
    """Each metric of two models' items, by index."""
    return {metric: _compare(metric, ours, theirs) for metric in metrics}


def _compare(
    metric: str, ours: Mapping[int, BaseModel], theirs: Mapping[int, BaseModel]
) -> PairedDifference:
    pairs = [
        (a, b)
        for index in sorted(ours.keys() & theirs.keys())
        if (a := getattr(ours[index], metric, None)) is not None
        and (b := getattr(theirs[index], metric, None)) is not None
    ]
    left_out = len(ours.keys() | theirs.keys()) - len(pairs)
    if not pairs:
        return PairedDifference(
            pairs=0,
            left_out=left_out,
            mean=None,
            baseline_mean=None,
            difference=None,
            interval=None,
            reason="no_pairs",
        )
    ours_all, theirs_all = zip(*pairs, strict=True)
    result = paired_difference(theirs_all, ours_all)
    interval = result.interval
    return PairedDifference(
        pairs=len(pairs),
        left_out=left_out,
        mean=fmean(ours_all),
        baseline_mean=fmean(theirs_all),
        difference=result.value,
        interval=None if interval is None else (interval.low, interval.high),
        reason="fewer_than_2_pairs" if interval is None else None,
    )
