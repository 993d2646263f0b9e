"""Two models on the same items: differences in pairs, and how far they may be off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel

from cast_server.evaluators.measures.intervals import bootstrap_interval


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
    ours_N, theirs_N = np.array(pairs, dtype=np.float64).T
    differences_N = ours_N - theirs_N
    is_enough = len(pairs) >= 2
    return PairedDifference(
        pairs=len(pairs),
        left_out=left_out,
        mean=float(ours_N.mean()),
        baseline_mean=float(theirs_N.mean()),
        difference=float(differences_N.mean()),
        interval=bootstrap_interval(differences_N.tolist()) if is_enough else None,
        reason=None if is_enough else "fewer_than_2_pairs",
    )
