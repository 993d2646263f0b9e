"""A handful of non-negative coefficients, learnt online and ready to forget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class OnlineRegression:
    """Recursive least squares of y on a few features (Plackett 1950), with forgetting.

    `start` is what to believe before the first sample, `scale` how large each feature usually is:
    the stronger a feature, the faster its coefficient is learnt. Estimates below 0 are read as 0.
    """

    def __init__(
        self, start: Sequence[float], scale: Sequence[float], memory: float = 200.0
    ) -> None:
        self._beta = np.array(start, np.float64)
        self._cov = np.diag(1.0 / np.square(np.array(scale, np.float64)))
        self._most = self._cov.copy()
        self._forget = 1.0 - 1.0 / memory

    @property
    def coefficients(self) -> NDArray[np.float64]:
        return np.maximum(self._beta, 0.0)

    def predict(self, features: Sequence[float]) -> float:
        return float(self.coefficients @ np.array(features))

    def learn(self, features: Sequence[float], y: float) -> None:
        x = np.array(features, np.float64)
        spread = self._cov @ x
        gain = spread / (1.0 + float(x @ spread))
        self._beta += gain * (y - float(self._beta @ x))
        self._cov = (self._cov - np.outer(gain, spread)) / self._forget
        # A direction that is not seen for long must not become infinitely uncertain.
        excess = np.sqrt(
            np.minimum(1.0, np.diag(self._most) / np.maximum(np.diag(self._cov), 1e-300))
        )
        self._cov *= np.outer(excess, excess)
