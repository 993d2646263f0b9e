"""A handful of non-negative coefficients, learnt online and ready to forget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class OnlineRegression:
    """Least squares of y on a few features, samples fading by age, with a prior that does not.

    `start` is the prior's mean, `scale` its weight: it counts as much as one sample a coefficient
    whose feature is that large. What samples do not tell stays near the start, however long they
    do not tell it. Estimates below 0 are read as 0.
    """

    def __init__(
        self, start: Sequence[float], scale: Sequence[float], memory: float = 200.0
    ) -> None:
        self._prior = np.diag(np.square(np.array(scale, np.float64)))
        self._start = self._prior @ np.array(start, np.float64)
        self._xx, self._xy = np.zeros_like(self._prior), np.zeros_like(self._start)
        self._keep = 1.0 - 1.0 / memory
        self._solve()

    @property
    def coefficients(self) -> NDArray[np.float64]:
        return np.maximum(self._beta, 0.0)

    def predict(self, features: Sequence[float]) -> float:
        return float(self.coefficients @ np.array(features))

    def learn(self, features: Sequence[float], y: float) -> None:
        x = np.array(features, np.float64)
        self._xx = self._keep * self._xx + np.outer(x, x)
        self._xy = self._keep * self._xy + y * x
        self._solve()

    def _solve(self) -> None:
        self._beta = np.linalg.solve(self._xx + self._prior, self._xy + self._start)
