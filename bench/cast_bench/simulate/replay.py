"""A drafter that proposes what another one did when it was recorded, level by level and as slowly.

Growth goes as `EagleDrafter`'s: passes over the likeliest nodes while the gate lets them, then what
is known without, best first. Guesses and how likely they are come from the trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from cast_bench.simulate.hardware import Clock, Host
from cast_bench.simulate.trace import Nodes, Trace
from cast_drafters.base import (
    DraftContext,
    Drafter,
    DraftLimits,
    Frontier,
    LevelGate,
    OpenGate,
    VerifyResult,
)
from cast_drafters.calibration import Calibration
from cast_drafters.growth import ROOT, GrowingTree, Node
from cast_drafters.tree import DraftTree
from cast_profiler.cost import CostModel
from cast_server.errors import ConfigError

_MAX_CATCH_UP: Final = 512  # EagleDrafter's


class Load(NamedTuple):
    """What a step attends to: its context, and how many sequences share it."""

    keys: int
    sequences: int


class Offer(NamedTuple):
    """A recorded node, by its place in the trie."""

    place: int
    node: Node


class Trie:
    """One position's nodes, by the node before and by whether a pass was needed to know them."""

    def __init__(self, nodes: Nodes) -> None:
        self._children: dict[tuple[int, bool], list[Offer]] = {}
        self.was_run = {-1}
        self.has_free = bool(nodes["is_free"].any())
        names = ("token", "parent", "depth", "log_prob", "source", "confidence", "rank")
        columns = [nodes[name].tolist() for name in (*names, "is_free", "level")]
        for place, (*values, is_free, level) in enumerate(zip(*columns, strict=True)):
            self._children.setdefault((values[1], is_free), []).append(Offer(place, Node(*values)))
            if level >= 0:
                self.was_run.add(place)

    def children(self, place: int, is_free: bool) -> list[Offer]:
        return self._children.get((place, is_free), [])


@dataclass(slots=True)
class _Growth:
    """One sequence's tree; `places` are its nodes' in the trie."""

    context: DraftContext
    trie: Trie
    num_rows: int
    tree: GrowingTree
    places: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    has_begun: bool = False

    def frontier(self, level: int) -> Frontier:
        limits, nodes = self.context.limits, self.tree.nodes
        if level == 0:
            self.open = [ROOT]
        else:
            likeliest = self.tree.frontier(len(nodes)) if self.has_begun else []
            able = [node for node in likeliest if self.places[node] in self.trie.was_run]
            self.open = able[: limits.level_width]
        return Frontier(
            self.context.request_id,
            limits,
            [0.0 if node == ROOT else nodes[node].log_prob for node in self.open],
            self.num_rows if level == 0 else 1,
            [node.log_prob for node in nodes],
            partial(self._free, tuple(self.open)),
        )

    def run(self, width: int) -> list[list[float]]:
        """Gives the first open nodes what the passes over them gave when recorded."""
        self.has_begun |= width > 0
        return [self._add(node, is_free=False) for node in self.open[:width]]

    def go_on(self) -> None:
        """What is known for nothing, until nothing that joins could still be among the best."""
        if not self.trie.has_free:
            return
        if not self.has_begun:
            self._add(ROOT, is_free=True)
        for _ in range(self.context.limits.max_nodes):
            node = next(iter(self.tree.frontier(1)), None)
            if node is None:
                return
            self._add(node, is_free=True)

    def _add(self, parent: int, is_free: bool) -> list[float]:
        nodes, limits = self.tree.nodes, self.context.limits
        offers = self._offers(parent, is_free)
        for place, one in offers:
            if one.log_prob >= limits.least:
                copy = Node(
                    one.token, parent, one.depth, one.log_prob, one.source, one.confidence, one.rank
                )
                nodes.append(copy)
                self.places.append(place)
        if parent != ROOT:
            nodes[parent].has_children = True
        return self._given(parent, offers)

    def _free(self, open_nodes: Sequence[int], count: int) -> list[list[float]]:
        return [self._given(node, self._offers(node, is_free=True)) for node in open_nodes[:count]]

    def _offers(self, node: int, is_free: bool) -> list[Offer]:
        place = -1 if node == ROOT else self.places[node]
        width = self.context.limits.max_width
        return [one for one in self.trie.children(place, is_free) if one.node.rank < width]

    def _given(self, node: int, offers: Sequence[Offer]) -> list[float]:
        above = 0.0 if node == ROOT else self.tree.nodes[node].log_prob
        return [math.exp(one.node.log_prob - above) for one in offers]


class TraceDrafter(Drafter):
    """Each request follows a script of the trace. Passes and the host's work take their time on
    `clock`, by `cost` and `host`; `load` is the step's, to be set before it drafts."""

    name = "trace"

    def __init__(self, trace: Trace, clock: Clock, cost: CostModel, host: Host) -> None:
        self._trace, self._clock, self._cost, self._host = trace, clock, cost, host
        self.calibration = Calibration()  # nothing is learnt: the trace's are calibrated
        self.load = Load(0, 1)
        self._scripts: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._tries: dict[tuple[int, int, int], Trie] = {}

    def follow(self, request_id: str, script: int, num_seen: int) -> None:
        """The drafter has read the prompt and the first `num_seen` tokens of output."""
        self._scripts[request_id], self._seen[request_id] = script, num_seen

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        """What a request says is in the trace."""

    def observe(self, results: Sequence[VerifyResult]) -> None:
        """What was proposed is known to be right or wrong already."""

    def release(self, request_id: str) -> None:
        self._scripts.pop(request_id, None)
        self._seen.pop(request_id, None)

    def propose(
        self, contexts: Sequence[DraftContext], gate: LevelGate | None = None
    ) -> list[DraftTree]:
        """Raises `ConfigError` for trees that are larger, wider or deeper than the trace's."""
        growths = [self._growth(one) for one in contexts]
        if self._trace.recorded.has_passes:
            groups = [growths] if self._trace.recorded.is_batched else [[one] for one in growths]
            for group in groups:
                self._run_levels(group, gate or OpenGate())
        for one in growths:
            one.go_on()
        self._clock.advance(self._host.drafting_seconds(len(contexts)))
        return [one.tree.finish() for one in growths]

    def _run_levels(self, growths: Sequence[_Growth], gate: LevelGate) -> None:
        level = 0
        while True:
            frontiers = [one.frontier(level) for one in growths]
            widths = gate.widths(level, frontiers)
            rows = sum(w * one.num_rows for w, one in zip(widths, frontiers, strict=True))
            if not rows:
                return
            self._clock.advance(self._cost.draft_seconds(rows, *self.load))
            found = [one.run(width) for one, width in zip(growths, widths, strict=True)]
            if level == 0:
                self._note_seen(growths)
            gate.ran(level, frontiers, found)
            level += 1

    def _note_seen(self, growths: Sequence[_Growth]) -> None:
        for one in growths:
            if one.has_begun:
                self._seen[one.context.request_id] = one.context.num_output

    def _check(self, limits: DraftLimits) -> None:
        recorded = self._trace.recorded
        most = recorded.nodes, max(recorded.widths), recorded.levels
        levels = limits.max_levels if recorded.has_passes else 0
        asked = limits.max_nodes, limits.max_width, levels
        if any(one > other for one, other in zip(asked, most, strict=True)):
            raise ConfigError(
                "The trace has drafts of up to {} nodes, {} wide and {} levels deep, but a policy "
                "asks for {}, {} and {}: record it with larger --nodes, --widths or --levels."
                "".format(*most, *asked)
            )

    def _growth(self, context: DraftContext) -> _Growth:
        self._check(context.limits)
        missed = context.num_output - self._seen[context.request_id]
        trie = self._trie(context)
        return _Growth(
            context, trie, max(1, min(missed, _MAX_CATCH_UP)), GrowingTree([], context.limits)
        )

    def _trie(self, context: DraftContext) -> Trie:
        width = self._trace.width_for(context.limits.max_width)
        script = self._scripts[context.request_id]
        key = script, width, context.num_output
        if key not in self._tries:
            self._tries[key] = Trie(self._trace.scripts[script].tries[width][context.num_output])
        return self._tries[key]
