"""Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cast_server.evaluators.base import Undefined


def rank_correlation(ones: Sequence[float], others: Sequence[float]) -> float:
    """Between -1 and 1; equal values share their mean rank.

    Raises Undefined: fewer_than_2_samples, or zero_variance if all of one side are equal.
    """
    if len(ones) < 2:
        raise Undefined("fewer_than_2_samples")
    a_N, b_N = (_ranks(values) - (len(values) - 1) / 2 for values in (ones, others))
    scale = float(np.sqrt((a_N @ a_N) * (b_N @ b_N)))
    if scale == 0:
        raise Undefined("zero_variance")
    return float(a_N @ b_N) / scale


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, which_N, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts + 1) / 2)[which_N]
    return ranks
