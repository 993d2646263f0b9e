"""Takes turns between what is to be timed, so that slow minutes of a machine hit all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cast_profiler.samples import Sample

Probe = Callable[[], float]
"""Runs once and returns the seconds that count; its own preparations need not be among them."""

_STRIDE: Final = 4  # samples between two runs of the reference
_MAX_ROUNDS: Final = 100
_WARM_UP_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Timings:
    """`samples[i]` are those of probe i, maybe none; `references` all runs of the reference, in
    order; `rounds` those that were completed.
    """

    samples: tuple[tuple[Sample, ...], ...]
    references: tuple[float, ...]
    rounds: int


def take_turns(
    probes: Sequence[Probe],
    reference: Probe,
    budget_seconds: float,
    *,
    essential: int = 1,
    on_progress: Callable[[float], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    seed: int = 0,
) -> Timings:
    """Runs probes, the most important first, once to warm up, then in rounds, each in another
    order, while time is left; the reference runs again after every few of them.

    On a machine too slow for all, those not warmed up in half the budget are left out. The first
    `essential` ones are sampled in any case. `on_progress` is told the share of the budget that is
    used up, rising to 1.
    """
    begin = clock()
    order = random.Random(seed)
    samples: list[list[Sample]] = [[] for _ in probes]

    def used() -> float:
        share = (clock() - begin) / budget_seconds
        on_progress(min(1.0, share))
        return share

    def is_over() -> bool:
        return used() >= 1 and all(samples[:essential])

    reference()
    warm: list[int] = []
    while len(warm) < len(probes) and (len(warm) < essential or used() < _WARM_UP_SHARE):
        probes[len(warm)]()
        warm.append(len(warm))
    references = [reference()]
    turns, rounds = warm, 0
    while rounds < _MAX_ROUNDS and not is_over():
        for first in range(0, len(turns), _STRIDE):
            few = turns[first : first + _STRIDE]
            timed = [(turn, probes[turn]()) for turn in few if not is_over()]
            references.append(reference())
            beside = max(references[-2:])
            for turn, seconds in timed:
                samples[turn].append(Sample(seconds, beside))
        rounds += not is_over()
        turns = order.sample(warm, len(warm))
    on_progress(1.0)
    return Timings(tuple(map(tuple, samples)), tuple(references), rounds)
