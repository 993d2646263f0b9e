"""When requests are sent in an open loop: by the clock, whether or not the server keeps up."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def arrivals(count: int, rate: float, burstiness: float, seed: int) -> NDArray[np.float64]:
    """Seconds after the start, ascending from 0, [count].

    Times between arrivals are gamma distributed with mean 1/`rate` and shape `burstiness`: 1 is a
    Poisson process, less comes in bursts, more is steadier. An infinite rate is all at once.
    """
    if math.isinf(rate):
        return np.zeros(count)
    scale = 1 / (rate * burstiness)
    gaps = np.random.default_rng(seed).gamma(burstiness, scale, size=count - 1)
    return np.concatenate([[0.0], np.cumsum(gaps)])
