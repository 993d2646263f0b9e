"""From repeated timings on a machine that others use too, to one number and how sure it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

HEAT: Final = 1.15  # a machine whose reference takes longer by more than this is disturbed
SPIKE: Final = 4.0  # robust standard deviations above the median
_LEAST_SHARE: Final = 1 / 3
_NORMAL_MAD: Final = 1.4826  # standard deviation of a normal distribution over its MAD
_CLOCK_JITTER: Final = 0.01  # of the median: equal timings must not make the next one a spike


class Sample(NamedTuple):
    """Seconds of one run, and the slower of the two reference runs around it."""

    seconds: float
    reference: float


@dataclass(frozen=True, slots=True)
class Summary:
    """`seconds` is the median of the samples kept, `spread` their interquartile range."""

    seconds: float
    spread: float
    kept: int
    rejected: int


def quiet_level(references: Sequence[float]) -> float:
    """What the reference takes when nothing disturbs it: the lower quartile of all its runs."""
    return sorted(references)[(len(references) - 1) // 4]


def summarise(samples: Sequence[Sample], quiet: float) -> Summary:
    """Rejects disturbed samples, then spikes; at least one sample is needed.

    Disturbed: the reference beside it took more than `HEAT` times `quiet`. Were that to leave less
    than a third, the third beside the fastest references is kept. Spike: more than `SPIKE` robust
    standard deviations (1.4826 MAD) above the median of what is left.
    """
    by_reference = sorted(samples, key=lambda sample: sample.reference)
    num_calm = sum(sample.reference <= HEAT * quiet for sample in samples)
    least = math.ceil(_LEAST_SHARE * len(samples))
    calm = [sample.seconds for sample in by_reference[: max(num_calm, least)]]
    middle = statistics.median(calm)
    deviation = _NORMAL_MAD * statistics.median(abs(seconds - middle) for seconds in calm)
    limit = middle + SPIKE * max(deviation, _CLOCK_JITTER * middle)
    kept = [seconds for seconds in calm if seconds <= limit]
    return Summary(
        statistics.median(kept), _quartile_range(kept), len(kept), len(samples) - len(kept)
    )


def _quartile_range(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low
