"""Asks the builders what to draft and what to verify, and tells them what it costs.

Sequences of one kind of policy share a builder; several kinds share the rows that a step has left.
The planner also keeps the price: what a second of this server
is worth in tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from cast_drafters.base import DraftContext, Drafter, DraftLimits, Frontier, LevelGate
from cast_drafters.builders.base import Builder, Outcome, Seat, StepCosts
from cast_drafters.eagle.device_drafts import DeviceDrafts
from cast_drafters.policy import make_builder
from cast_drafters.tree import EMPTY_TREE, DraftTree
from cast_profiler.drift import CorrectedCost
from cast_server.engine.foreseeing import (
    Foreseen,
    Party,
    foresee,
    learn_levels,
    share_out,
    tell,
)
from cast_server.engine.grammar_drafts import held_to
from cast_server.engine.grammar_state import GrammarState
from cast_server.engine.meter import Meter, StepRecord
from cast_server.engine.scheduler import Scheduled

_FADE: Final = 0.98  # of the speed-up that the price rests on, a step


@dataclass(slots=True)
class StepPlan:
    """Trees to verify, one for each scheduled sequence, and what was expected of them.

    Where they are to grow on the device, `foreseen` is what is known of them before.
    """

    trees: list[DraftTree]
    only_decodes: bool
    num_rows: int
    num_keys: int
    parties: list[Party] = field(default_factory=list)
    levels: _Levels | None = None
    foreseen: Foreseen | None = None
    num_asked: int = 0
    draft_seconds: float = 0.0
    draft_predicted: float = 0.0
    verify_predicted: float = 0.0
    predicted: float = 0.0


class Taken(NamedTuple):
    """What a step took, in seconds, and brought, in tokens; of its pass and in all, of drafts as
    foreseen and as accepted, and in all."""

    verify_seconds: float
    seconds: float
    expected: float
    accepted: int
    tokens: int


@dataclass(slots=True)
class _Levels(LevelGate):
    """Hands each frontier to its builder. Times the levels, and adds up what was predicted."""

    parties: list[Party]
    party_of: dict[str, int]
    cost: CorrectedCost
    clock: Callable[[], float]
    predicted: float = 0.0
    seconds: float = 0.0
    count: int = 0
    _rows: int = 0
    _begin: float = 0.0

    def widths(self, level: int, frontiers: Seq[Frontier]) -> list[int]:
        widths = [0] * len(frontiers)
        for number, party in enumerate(self.parties):
            mine = [i for i, one in enumerate(frontiers) if self.party_of[one.request_id] == number]
            if mine:
                chosen = party.builder.widths(level, [frontiers[i] for i in mine], party.costs)
                for i, width in zip(mine, chosen, strict=True):
                    widths[i] = width
        rows = sum(w * one.num_rows for w, one in zip(widths, frontiers, strict=True))
        if rows:
            self.count += 1
            self.predicted += self.parties[0].costs.draft(rows)
        self._rows, self._begin = rows, self.clock()
        return widths

    def ran(self, level: int, frontiers: Seq[Frontier], children: Seq[Seq[Seq[float]]]) -> None:
        seconds, costs = self.clock() - self._begin, self.parties[0].costs
        self.seconds += seconds
        self.cost.saw_level(self._rows, costs.num_keys, costs.num_sequences, seconds)
        self.tell(level, frontiers, children)

    def tell(self, level: int, frontiers: Seq[Frontier], children: Seq[Seq[Seq[float]]]) -> None:
        """Each builder of its own."""
        for number, party in enumerate(self.parties):
            mine = [i for i, one in enumerate(frontiers) if self.party_of[one.request_id] == number]
            if mine:
                party.builder.ran(level, [frontiers[i] for i in mine], [children[i] for i in mine])


def _at_once(work: Callable[[], None]) -> None:
    work()


@dataclass(slots=True)
class Planner:
    """Owns the builders, the corrected costs and the price. `meter` keeps the books.

    `clock` tells the seconds that drafting takes; a simulation has one of its own. `later` is given
    what can be done after the next step has begun.
    """

    cost: CorrectedCost
    drafter: Drafter
    meter: Meter = field(default_factory=Meter)
    clock: Callable[[], float] = time.perf_counter
    later: Callable[[Callable[[], None]], None] = _at_once
    _builders: dict[str, Builder] = field(default_factory=dict)
    _speed_ups: dict[int, float] = field(default_factory=dict)  # by numbers of sequences: doublings

    def plan(
        self, scheduled: Seq[Scheduled], num_spare: int, device: DeviceDrafts | None = None
    ) -> StepPlan:
        """`num_spare`: rows that the step has left for drafts. `device`: what can grow them."""
        plan = StepPlan(
            [EMPTY_TREE] * len(scheduled),
            all(one.sequence.is_decoding for one in scheduled),
            sum(one.num_tokens for one in scheduled),
            _num_keys(scheduled),
        )
        parties = plan.parties = self._parties(scheduled, num_spare)
        if not parties:
            return plan
        begin = self.clock()
        contexts: list[DraftContext] = []
        grammars: list[GrammarState | None] = []
        party_of: dict[str, int] = {}
        for number, party in enumerate(parties):
            limits = party.builder.limits(party.seats, party.costs)
            for place, limit in zip(party.places, limits, strict=True):
                if limit.max_nodes > 0:
                    contexts.append(_context(scheduled[place], limit))
                    grammars.append(scheduled[place].sequence.grammar)
                    party_of[contexts[-1].request_id] = number
        plan.levels = _Levels(parties, party_of, self.cost, self.clock)
        plan.num_asked = len(contexts)
        if contexts and device is not None and self._can_foresee(plan, contexts, device):
            places = {one.sequence.id: place for place, one in enumerate(scheduled)}
            plan.foreseen = foresee(device, parties, contexts, places, len(scheduled))
            plan.levels.count = len(plan.foreseen.rows)
            plan.levels.predicted = sum(plan.foreseen.seconds)
            plan.draft_seconds = self.clock() - begin
            return plan
        proposed = self.drafter.propose(contexts, plan.levels) if contexts else []
        trees = {
            one.request_id: held_to(grammar, tree, one.limits)
            for one, grammar, tree in zip(contexts, grammars, proposed, strict=True)
        }
        for party in parties:
            candidates = [trees.get(seat.request_id, EMPTY_TREE) for seat in party.seats]
            chosen = party.builder.choose(candidates, party.seats, party.costs)
            for place, tree in zip(party.places, chosen, strict=True):
                plan.trees[place] = tree
        plan.draft_seconds = self.clock() - begin
        return plan

    def predict(self, plan: StepPlan) -> None:
        """What the step is going to take, now that it is known what is verified."""
        nodes = plan.foreseen.num_nodes if plan.foreseen else sum(map(len, plan.trees))
        rows = plan.num_rows + nodes
        plan.verify_predicted = self.cost.verify_seconds(rows, plan.num_keys, len(plan.trees))
        levels = plan.levels.predicted if plan.levels else 0.0
        plan.draft_predicted = levels + self.cost.host_seconds(plan.num_asked)
        rest = self.cost.rest_seconds(len(plan.trees))
        plan.predicted = plan.draft_predicted + plan.verify_predicted + rest

    def found(self, plan: StepPlan, trees: list[DraftTree], seconds: float) -> float:
        """Of a foreseen step, what was verified, and the device's time for all of it. Returns what
        the target's pass has had of that."""
        assert plan.foreseen is not None
        assert plan.levels is not None
        plan.trees = trees
        tell(plan.foreseen, plan.parties, plan.levels.tell)
        levels, verify = share_out(plan.foreseen, plan.verify_predicted, seconds)
        plan.levels.seconds = levels
        plan.draft_seconds += levels
        return verify

    def learn(self, plan: StepPlan, taken: Taken) -> None:
        """From what a step took and brought. Steps that also prefill teach nothing about decoding.

        What no builder has to know of before the next step may wait: `later` gets it.
        """
        if not plan.only_decodes:
            return
        count = len(plan.trees)
        plain = self.cost.verify_seconds(count, plan.num_keys, count) + self.cost.rest_seconds(
            count
        )
        self.later(partial(self._note, plan, taken))
        speed_up = (taken.tokens / count) * plain / taken.seconds
        before = self._speed_ups.setdefault(count.bit_length(), 1.0)
        self._speed_ups[count.bit_length()] = before + (1 - _FADE) * (speed_up - before)
        outcome = Outcome(taken.expected, taken.accepted, taken.seconds, plain)
        for party in plan.parties:
            party.builder.settle(outcome, party.costs)

    def _note(self, plan: StepPlan, taken: Taken) -> None:
        """In the books, and for the costs."""
        count, nodes = len(plan.trees), sum(map(len, plan.trees))
        self.meter.add(
            StepRecord(
                sequences=count,
                drafted=sum(len(tree) > 0 for tree in plan.trees),
                nodes=nodes,
                levels=plan.levels.count if plan.levels else 0,
                rows=count + nodes,
                predicted_draft=plan.draft_predicted,
                draft=plan.draft_seconds,
                predicted_verify=plan.verify_predicted,
                verify=taken.verify_seconds,
                predicted=plan.predicted,
                seconds=taken.seconds,
                expected=taken.expected,
                accepted=taken.accepted,
                tokens=taken.tokens,
            )
        )
        self.cost.saw_verify(count + nodes, plan.num_keys, count, taken.verify_seconds)
        self.cost.saw_rest(count, taken.seconds - taken.verify_seconds - plan.draft_seconds)
        if plan.levels is not None and plan.num_asked:
            self.cost.saw_host(plan.num_asked, plan.draft_seconds - plan.levels.seconds)
            if plan.foreseen is not None:
                costs = plan.parties[0].costs
                learn_levels(plan.foreseen, self.cost, costs, plan.levels.seconds)

    @staticmethod
    def _can_foresee(plan: StepPlan, contexts: Seq[DraftContext], device: DeviceDrafts) -> bool:
        can = plan.only_decodes and all(party.builder.foresees for party in plan.parties)
        return can and device.takes(contexts, len(plan.trees))

    def use(self, kind: str, builder: Builder) -> None:
        """From now on `builder` serves the policies of a kind."""
        self._builders[kind] = builder

    def _parties(self, scheduled: Seq[Scheduled], num_spare: int) -> list[Party]:
        places: dict[str, list[int]] = {}
        for place, one in enumerate(scheduled):
            if one.max_draft_rows > 0 and one.sequence.policy.size:
                places.setdefault(one.sequence.policy.kind, []).append(place)
        if not places or num_spare <= 0:
            return []
        count = len(scheduled)
        rows = sum(one.num_tokens for one in scheduled)
        keys = _num_keys(scheduled)
        # Tokens drafted now save steps that only decode, whatever else this one computes.
        plain = self.cost.verify_seconds(count, keys, count) + self.cost.rest_seconds(count)
        price = max(1.0, self._speed_ups.get(count.bit_length(), 1.0)) * count / plain
        parties = []
        for number, (kind, mine) in enumerate(places.items()):
            seats = [_seat(scheduled[place]) for place in mine]
            share = num_spare // (len(places) - number)
            costs = StepCosts(self.cost, price, rows, keys, count, share)
            num_spare -= min(share, sum(seat.size for seat in seats))
            parties.append(Party(self._builder(kind), mine, seats, costs))
        return parties

    def _builder(self, kind: str) -> Builder:
        if kind not in self._builders:
            self._builders[kind] = make_builder(kind)
        return self._builders[kind]


def expected_tokens(tree: DraftTree) -> float:
    """How many draft tokens of a tree are thought to be accepted."""
    return float(np.exp(tree.log_probs_T).sum())


def _seat(one: Scheduled) -> Seat:
    sequence = one.sequence
    return Seat(
        request_id=sequence.id,
        size=min(sequence.policy.size, one.max_draft_rows),
        max_depth=sequence.params.max_tokens - sequence.num_output - 1,
        levels=sequence.policy.levels,
        weight=sequence.request.speculation.weight,
        has_prediction=bool(sequence.request.prediction),
    )


def _context(one: Scheduled, limits: DraftLimits) -> DraftContext:
    sequence = one.sequence
    request = sequence.request
    return DraftContext(
        sequence.id,
        sequence.token_ids,
        limits,
        request.params.temperature,
        request.seed,
        sequence.slots(0, len(sequence.token_ids)),
        sequence.num_output,
        request.owner,
        request.prediction,
    )


def _num_keys(scheduled: Seq[Scheduled]) -> int:
    return sum(one.sequence.num_computed + one.num_tokens for one in scheduled)
