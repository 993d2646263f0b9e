"""One probability from several sources: a linear pool whose weights depend on what each has seen.

A source that matched five tokens deserves more belief than one that matched a single token, and a
head deserves less the deeper it drafts on its own states. So the weights are a table, fitted by
expectation maximisation on text that no source was made of.

Shape suffixes: N samples, S sources (the head first), D depths, T and R context lengths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cast_drafters.growth import Guess

NUM_DEPTHS: Final = 4  # 0: the head has not run here; then depths 1, 2 and beyond
NUM_ORDERS: Final = 6  # longest context that a source matched, 0 to 5 tokens
_PRIOR: Final = 30.0  # samples that a cell's neighbourhood is worth
_ROUNDS: Final = 60


class Prediction(NamedTuple):
    """What a source says next: the length of the context it knows, and (token, probability) pairs
    whose probabilities sum to at most 1; the rest is not knowing."""

    order: int
    guesses: Sequence[tuple[int, float]]


NOTHING: Final = Prediction(0, ())


@dataclass(frozen=True, slots=True)
class Pool:
    """weights_DTRS: by depth of the head, order of the first and of the second free source. The
    weights of a cell sum to less than 1; what is missing is the chance that no source is right."""

    weights_DTRS: NDArray[np.float64]

    def blend(
        self, depth: int, head: Prediction, text: Prediction, store: Prediction
    ) -> list[Guess]:
        """The tokens that any source named. `source` is the number of the one that counted most."""
        cell = self._cell(depth, text.order, store.order)
        pooled: dict[int, float] = {}
        largest: dict[int, tuple[float, int]] = {}
        for source, (weight, one) in enumerate(
            zip(self.weights_DTRS[cell].tolist(), (head, text, store), strict=True)
        ):
            for token, share in one.guesses:
                part = weight * share
                pooled[token] = pooled.get(token, 0.0) + part
                largest[token] = max(largest.get(token, (0.0, source)), (part, source))
        return [Guess(token, math.log(p), largest[token][1]) for token, p in pooled.items() if p]

    def trust(self, depth: int, text: int, store: int) -> float:
        """The logarithm of the head's weight, by its depth and the orders of the free sources."""
        weight = float(self.weights_DTRS[self._cell(depth, text, store)][0])
        return math.log(weight) if weight > 0 else -math.inf

    @classmethod
    def default(cls) -> Pool:
        """What holds for many: a matched context counts the more the longer it is."""
        weights = np.zeros((NUM_DEPTHS, NUM_ORDERS, NUM_ORDERS, 3))
        for depth, text, store in np.ndindex(weights.shape[:3]):
            share = np.array([1.0 if depth else 0.0, 0.4 * text, 0.25 * store])
            weights[depth, text, store] = 0.95 * share / max(share.sum(), 1e-9)
        return cls(weights)

    @classmethod
    def open(cls, path: Path) -> Pool:
        """Raises `ValueError` on a file that holds no such table."""
        try:
            weights = np.array(json.loads(path.read_text())["weights"], np.float64)
        except (ValueError, KeyError, TypeError) as cause:
            raise ValueError(f"{path} is no table of pool weights; fit it again.") from cause
        if weights.shape != (NUM_DEPTHS, NUM_ORDERS, NUM_ORDERS, 3):
            raise ValueError(f"{path} holds weights of shape {weights.shape}; fit it again.")
        return cls(weights)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"weights": np.round(self.weights_DTRS, 4).tolist()}) + "\n")

    @staticmethod
    def _cell(depth: int, text: int, store: int) -> tuple[int, int, int]:
        return min(depth, NUM_DEPTHS - 1), min(text, NUM_ORDERS - 1), min(store, NUM_ORDERS - 1)


def fit(cells_N3: NDArray[np.int64], shares_NS: NDArray[np.float64]) -> Pool:
    """cells: depth and orders of each sample; shares: what each source gave the token that came.

    Each cell starts from its depth's own fit, which counts as much as some samples of the cell.
    """
    weights = Pool.default().weights_DTRS
    for depth in range(NUM_DEPTHS):
        chosen = cells_N3[:, 0] == depth
        if not chosen.any():
            continue
        general = _maximise(shares_NS[chosen], np.full(3, 0.3), 1.0)
        for text, store in np.ndindex(NUM_ORDERS, NUM_ORDERS):
            here = chosen & (cells_N3[:, 1] == text) & (cells_N3[:, 2] == store)
            weights[depth, text, store] = _maximise(shares_NS[here], general, _PRIOR)
    return Pool(weights)


def _maximise(
    shares_NS: NDArray[np.float64], start_S: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """Weights of greatest likelihood, the last component being "none of them" (Dirichlet prior)."""
    nobody = np.full((len(shares_NS), 1), 1e-4)
    parts = np.concatenate([shares_NS, nobody], 1)
    prior = np.append(start_S, max(1e-3, 1 - start_S.sum()))
    weights = prior / prior.sum()
    for _ in range(_ROUNDS):
        belief = parts * weights
        belief /= np.maximum(belief.sum(1, keepdims=True), 1e-30)
        counts = belief.sum(0) + strength * prior
        weights = counts / counts.sum()
    fitted: NDArray[np.float64] = weights[:-1]
    return fitted
