"""Drafts of a step that grow on the device, as the host sees them: begun, sent off, read back.

The host decides the shape of the step before anything is known of it; which nodes get the rows is
the device's to say. Free sources are asked at the root, and a few nodes on, before the pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.base import DraftContext, Frontier, VerifyResult
from cast_drafters.builders.base import StepShape
from cast_drafters.calibration import Calibration
from cast_drafters.eagle.catching_up import CatchingUp
from cast_drafters.eagle.device_growth import WIDTH, DeviceGrowth, Land, Planting, Plot
from cast_drafters.eagle.free_guesses import FreeGuesses
from cast_drafters.eagle.growing import Growth
from cast_drafters.eagle.reading import Reading
from cast_drafters.growth import ROOT, Child, Node
from cast_drafters.lessons import learn_from, learn_paths

_MORE: Final = 2  # nodes that get children of free sources beside a head
_MOST: Final = 8  # nodes that they have there


class Head(Protocol):
    """Of `EagleDrafter`, what its other half needs."""

    calibration: Calibration
    catching_up: CatchingUp
    free_guesses: FreeGuesses


@dataclass(slots=True)
class DeviceStep:
    """Drafts of one step. `places` of the `contexts` among its `num_sequences`; `sizes`, the most
    nodes of each, may be cut before the step is launched. `reading`: what has grown, once read."""

    contexts: list[DraftContext]
    places: list[int]
    weights: list[float]
    num_sequences: int
    growths: list[Growth]
    beside: list[list[Child]]
    trusts: list[float]
    frontiers: list[Frontier]
    sizes: list[int]
    shape: StepShape = field(default_factory=lambda: StepShape((), (), 0))
    reading: Reading | None = None


class DeviceDrafts:
    """The half of an `EagleDrafter` that reads nothing before the step's outcome is known."""

    def __init__(self, drafter: Head, growth: DeviceGrowth) -> None:
        self._drafter, self._growth = drafter, growth
        self._told: tuple[Calibration, NDArray[np.float32], NDArray[np.float32]] | None = None
        self.num_steps = 0

    @property
    def land(self) -> Land:
        return self._growth.land

    def takes(self, contexts: Sequence[DraftContext], num_sequences: int) -> bool:
        """Whether it can draft for these, among so many sequences of a step. A prompt that the head
        has not seen, an expected text and trees that are too wide for it are not for here."""
        if any(one.prediction or one.limits.max_width > WIDTH for one in contexts):
            return False
        if any(len(one.token_ids) < 2 or one.limits.max_depth < 1 for one in contexts):
            return False
        missing = sum(self._drafter.catching_up.missing(one) for one in contexts)
        return self._growth.holds(missing, num_sequences)

    def begin(
        self,
        contexts: Sequence[DraftContext],
        places: Sequence[int],
        weights: Sequence[float],
        num_sequences: int,
    ) -> DeviceStep:
        """What is known of the step before any pass; its shape is still to be set."""
        drafter = self._drafter
        drafter.free_guesses.read(contexts)
        growths = [Growth(one, drafter.calibration) for one in contexts]
        known = [drafter.free_guesses.at_root(one) for one in growths]
        return DeviceStep(
            list(contexts),
            list(places),
            list(weights),
            num_sequences,
            growths,
            [beside for beside, _ in known],
            [trust for _, trust in known],
            [self._frontier(one) for one in growths],
            [one.limits.max_nodes for one in contexts],
        )

    def launch(self, step: DeviceStep, room: int) -> None:
        """Grows the trees, of which `room` nodes can be verified; returns before they have
        grown."""
        plots: list[Plot | None] = [None] * step.num_sequences
        behind: list[DraftContext | None] = [None] * step.num_sequences
        nodes = min(step.shape.num_nodes, room)
        room = self._growth.num_free
        for index, place in enumerate(step.places):
            plots[place] = plot = self._plot(step, index, room)
            room -= len(plot.nodes)
            if plot.is_run:
                behind[place] = step.contexts[index]
        catching_up = self._drafter.catching_up
        level = catching_up.level(behind) if any(step.shape.roots) else None
        odds, steps = self._table()
        trust = self._drafter.free_guesses.trust()
        self._growth.plant(Planting(plots, level, nodes, odds, steps, trust))
        catching_up.mark(behind)
        for rows in self._levels(step.shape):
            self._growth.level(rows)
        self.num_steps += 1

    def report(self) -> Tensor:
        """On the device, what `Reading` reads."""
        return self._growth.land.forest.report()

    def learn(self, step: DeviceStep, results: Sequence[VerifyResult]) -> None:
        """From a step whose drafts have been read."""
        assert step.reading is not None
        calibration = self._drafter.calibration
        places = {
            one.request_id: place for one, place in zip(step.contexts, step.places, strict=True)
        }
        is_sampled = {one.request_id: one.temperature > 0 for one in step.contexts}
        for result in results:
            name = result.request_id
            if name in places:
                tree = step.reading.tree(step.reading.nodes_of(places[name]))
                learn_from(calibration, tree, result.token_ids, is_sampled[name])
                learn_paths(calibration, result, is_sampled[name])
        self._told = None
        self._table()

    def _table(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        calibration = self._drafter.calibration
        if self._told is None or self._told[0] is not calibration:
            self._told = calibration, *calibration.table()
        return self._told[1:]

    def _frontier(self, growth: Growth) -> Frontier:
        context = growth.context
        growth.open = [ROOT]
        free = [math.exp(child.log_prob) for child in growth.free[ROOT]]
        return Frontier(
            request_id=context.request_id,
            limits=context.limits,
            log_probs=[0.0],
            num_rows=self._drafter.catching_up.missing(context),
            candidates=(),
            free=lambda count: [free][:count],
        )

    def _plot(self, step: DeviceStep, index: int, room: int) -> Plot:
        context, growth = step.contexts[index], step.growths[index]
        limits, is_run = context.limits, step.shape.roots[index]
        return Plot(
            position=growth.position,
            context=len(context.slots_L) - 1,
            root_slot=int(context.slots_L[-1]),
            is_run=is_run,
            temperature=context.temperature,
            width=limits.max_width,
            depth=limits.max_depth,
            size=step.sizes[index],
            least=limits.least,
            weight=math.log(step.weights[index]),
            root_trust=step.trusts[index],
            nodes=self._free_nodes(growth, step.beside[index] if is_run else None, room),
        )

    def _free_nodes(self, growth: Growth, beside: list[Child] | None, room: int) -> list[Node]:
        """Those of free sources: `beside` a head, or alone. Where it is to be a chain, the head's
        guess and another would be two branches."""
        if beside is None:
            self._drafter.free_guesses.go_on(growth)
            return _best(growth.tree.nodes, min(room, growth.context.limits.max_nodes))
        if growth.context.limits.max_width == 1:
            return []
        growth.place = 0
        growth.tree.add(ROOT, beside)
        self._drafter.free_guesses.go_on(growth, _MORE)
        return _best(growth.tree.nodes, min(room, _MOST))

    def _levels(self, shape: StepShape) -> list[int]:
        """Padded to buckets, as far as there is room."""
        buckets = self._growth.buckets
        rows = [self._growth.rows_of(one) or buckets[-1] for one in shape.levels if one]
        kept = np.cumsum(rows) <= self._growth.max_rows
        return [one for one, is_kept in zip(rows, kept.tolist(), strict=True) if is_kept]


def _best(nodes: Sequence[Node], count: int) -> list[Node]:
    """The likeliest, with those above them."""
    ranked = sorted(range(len(nodes)), key=lambda i: -nodes[i].log_prob)[:count]
    number = {node: i for i, node in enumerate(sorted(ranked))}
    number[ROOT] = ROOT
    return [replace(nodes[i], parent=number[nodes[i].parent]) for i in sorted(ranked)]
