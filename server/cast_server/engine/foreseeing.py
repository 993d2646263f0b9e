"""Steps whose drafts grow on the device: what the builders say of them before, and are told after.

The device's time is measured as a whole. Levels and the target's pass are held to have shared it as
was predicted, so that a surprise is a surprise about both.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import zip_longest

from cast_drafters.base import DraftContext, Frontier
from cast_drafters.builders.base import Builder, Seat, StepCosts, StepShape
from cast_drafters.eagle.device_drafts import DeviceDrafts, DeviceStep
from cast_profiler.drift import CorrectedCost

Ran = Callable[[int, Seq[Frontier], Seq[Seq[Seq[float]]]], None]


@dataclass(slots=True)
class Party:
    """The sequences of one builder in this step, by their places among the scheduled ones."""

    builder: Builder
    places: list[int]
    seats: list[Seat]
    costs: StepCosts


@dataclass(frozen=True, slots=True)
class Foreseen:
    """`seconds` are what each pass of the drafter is thought to take, of so many `rows`."""

    step: DeviceStep
    rows: list[int]
    seconds: list[float]

    @property
    def num_nodes(self) -> int:
        return min(self.step.shape.num_nodes, sum(self.step.sizes))


def foresee(
    drafts: DeviceDrafts,
    parties: Seq[Party],
    contexts: Seq[DraftContext],
    place_of: dict[str, int],
    num_sequences: int,
) -> Foreseen:
    """Asks every builder what its part of the step is to be like."""
    weights = {seat.request_id: seat.weight for party in parties for seat in party.seats}
    step = drafts.begin(
        contexts,
        [place_of[one.request_id] for one in contexts],
        [weights[one.request_id] for one in contexts],
        num_sequences,
    )
    roots = [False] * len(contexts)
    shapes: list[StepShape] = []
    for party in parties:
        mine = [i for i, place in enumerate(step.places) if place in party.places]
        if mine:
            shapes.append(party.builder.plan([step.frontiers[i] for i in mine], party.costs))
            for i, is_run in zip(mine, shapes[-1].roots, strict=True):
                roots[i] = is_run
    levels = [sum(rows) for rows in zip_longest(*(one.levels for one in shapes), fillvalue=0)]
    num_nodes = sum(one.num_nodes for one in shapes)
    step.shape = StepShape(tuple(roots), tuple(levels) if any(roots) else (), num_nodes)
    root_rows = sum(
        one.num_rows for one, is_run in zip(step.frontiers, roots, strict=True) if is_run
    )
    rows = [count for count in (root_rows, *step.shape.levels) if count]
    return Foreseen(step, rows, [parties[0].costs.draft(count) for count in rows])


def tell(foreseen: Foreseen, parties: Seq[Party], ran: Ran) -> None:
    """What was run and what it has found, as `LevelGate.ran`; what was verified of it."""
    step, reading = foreseen.step, foreseen.step.reading
    assert reading is not None
    found = reading.roots(step.places)
    roots = [one if is_run else [] for one, is_run in zip(found, step.shape.roots, strict=True)]
    if any(step.shape.roots):
        ran(0, step.frontiers, roots)
    for level in range(1, reading.num_levels + 1):
        ran(level, *reading.level(level, step.places, step.contexts))
    for party in parties:
        trees = [reading.verified(place) for place in party.places]
        party.builder.verified(trees, party.seats, party.costs)


def share_out(foreseen: Foreseen, verify: float, seconds: float) -> tuple[float, float]:
    """Of the device's time, what its levels and what the target's pass, predicted to take
    `verify`, have taken."""
    levels = sum(foreseen.seconds)
    share = seconds / max(levels + verify, 1e-9)
    return levels * share, verify * share


def learn_levels(foreseen: Foreseen, cost: CorrectedCost, costs: StepCosts, seconds: float) -> None:
    """`seconds`: of all levels together."""
    share = seconds / max(sum(foreseen.seconds), 1e-9)
    for rows, predicted in zip(foreseen.rows, foreseen.seconds, strict=True):
        cost.saw_level(rows, costs.num_keys, costs.num_sequences, predicted * share)
