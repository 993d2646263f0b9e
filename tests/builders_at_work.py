"""Seats, frontiers and costs to ask builders with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cast_drafters.base import DraftLimits, Frontier
from cast_drafters.builders.base import Seat, StepCosts

ROOM = DraftLimits(1024, 1024, 1024)


@dataclass(frozen=True)
class Costs:
    """Seconds by rows; a level of the drafter costs `draft` and a bit for each row."""

    verify: Callable[[int], float]
    draft: float = 0.0
    host: float = 0.0

    def verify_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        return self.verify(rows)

    def draft_seconds(self, rows: int, keys: int, sequences: int = 1) -> float:
        return self.draft * (1 + 0.01 * rows)

    def host_seconds(self, sequences: int) -> float:
        return self.host * sequences


def costs(
    max_nodes: int = 64,
    slope: float = 0.05,
    draft: float = 0.1,
    num_sequences: int = 1,
    price: float | None = None,
    verify: Callable[[int], float] | None = None,
    host: float = 0.0,
) -> StepCosts:
    """By default a step of n rows takes 1 + slope * n seconds, and plain decoding is the price."""
    model = Costs(verify or (lambda rows: 1.0 + slope * rows), draft, host)
    if price is None:
        price = num_sequences / model.verify_seconds(num_sequences, 0)
    return StepCosts(model, price, num_sequences, 100, num_sequences, max_nodes)


def seats(count: int, size: int, levels: int = 0, weight: float = 1.0) -> list[Seat]:
    return [Seat(str(i), size, 1000, levels, weight) for i in range(count)]


def frontier(
    limits: DraftLimits = ROOM,
    log_probs: Sequence[float] = (0.0,),
    num_rows: int = 1,
    candidates: Sequence[float] = (),
    free: Sequence[Sequence[float]] | None = None,
    name: str = "0",
) -> Frontier:
    known = [[0.0]] * len(log_probs) if free is None else free
    return Frontier(name, limits, log_probs, num_rows, candidates, lambda count: known[:count])
