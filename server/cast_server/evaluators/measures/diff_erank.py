"""eRank over many texts, and what training did to it (arXiv 2401.17139, Definitions 3.4 and 3.5).

Both algorithms are functions of means over texts, so their intervals come from resampled means:
texts are drawn with replacement, a text's numbers of both models together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.measures.intervals import Interval, percentiles, resampled_means

Algorithm = Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A number over texts, and its interval; none for a single text."""

    value: float
    interval: Interval | None


def erank_over_texts(
    entropies: Sequence[float], algorithm: Algorithm = "a", seed: int = 0
) -> Aggregate:
    """entropies: one a text, in nats. "a": exp of their mean, a geometric mean of eRanks; "b": the
    mean of eRanks, never smaller. Raises Undefined: no_texts."""
    return _aggregate(np.array([entropies]), np.array([1.0]), algorithm, seed)


def diff_erank(
    untrained: Sequence[Sequence[float]],
    trained: Sequence[float],
    algorithm: Algorithm = "a",
    seed: int = 0,
) -> Aggregate:
    """eRank of the untrained model less that of the trained one, by entropies of the same texts.

    untrained: a list for each seed of initialisation; their differences are averaged.
    Raises Undefined: no_texts.
    """
    weights_S = np.full(len(untrained) + 1, 1 / len(untrained))
    weights_S[-1] = -1
    return _aggregate(np.array([*untrained, trained]), weights_S, algorithm, seed)


def _aggregate(
    entropies_ST: NDArray[np.float64],
    weights_S: NDArray[np.float64],
    algorithm: Algorithm,
    seed: int,
) -> Aggregate:
    """The weighted sum of the aggregates of several models (S) over the same texts (T)."""
    num_texts = entropies_ST.shape[1]
    if not num_texts:
        raise Undefined("no_texts")
    is_geometric = algorithm == "a"
    values_ST = entropies_ST if is_geometric else np.exp(entropies_ST)

    def combined(means_SR: NDArray[np.float64]) -> NDArray[np.float64]:
        return weights_S @ (np.exp(means_SR) if is_geometric else means_SR)

    value = float(combined(values_ST.mean(1)))
    if num_texts < 2:
        return Aggregate(value, None)
    return Aggregate(value, percentiles(combined(resampled_means(values_ST, seed))))
