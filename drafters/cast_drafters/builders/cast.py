"""CAST with one price: every decision is worth its tokens minus its seconds times the price.

The derivation is in docs/cost-aware-trees.md: verification by `allocation`, levels and their widths
by what `prospects` expects of them, and the sequences that are drafted for at all by what drafting
has brought them of late. Nothing here is tuned to a model or a device; the constants bound memory
and the share of time that goes into finding out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cast_drafters.allocation import allocate, marginal_price
from cast_drafters.base import DraftLimits, Frontier
from cast_drafters.builders.base import Builder, Outcome, Seat, StepCosts, StepShape
from cast_drafters.builders.fixed import NO_DRAFTS
from cast_drafters.builders.foresight import foresee
from cast_drafters.builders.prospects import Prospects
from cast_drafters.tree import DraftTree

_WIDTH: Final = 4
_LEVELS: Final = 8
_LEAST: Final = 0.02  # a path less likely is not kept, however cheap rows are
_AMORTISED: Final = 16  # passes by which tokens that a drafter has missed are paid off, if it ran …
_FAITH: Final = 0.02  # … in every step: how often it does is learnt at this rate
_PROBING: Final = 0.015  # share of time for passes that are not expected to pay, and do not
_SAVED: Final = 0.5  # plain steps, the most that probes save up: they are not to come in floods
_LONGEST_PAUSE: Final = 32  # steps without a look at what costs no pass …
_SHORT_PAUSE: Final = 4  # … or at a text that the client expects: it may come back any time
_MEMORY: Final = 0.8  # of a sequence's surplus, a step
_TRIAL: Final = 8  # steps between decisions on whether drafting pays at all
_LONGEST_STEP: Final = 4.0  # in plain steps, as far as it counts
_CONTROL: Final = 12  # drafting steps between two plain ones, where the gain is not clear
_WORTH_IT: Final = 0.04  # plain steps gained a step: less is not told from luck
_CLEAR: Final = 0.3  # plain steps gained a step
_LEARN: Final = 0.1  # of the length of plain steps, a plain step
_KEPT: Final = 0.99  # of what was foreseen and what came true, a step
_DOUBT: Final = 5.0  # tokens that it takes to doubt what is foreseen
_LONGEST_REST: Final = 160  # steps without drafts, before another trial


@dataclass(slots=True)
class _Record:
    """What drafting for a sequence has been worth, in tokens a step beyond what its rows cost."""

    surplus: float = 1.0
    pause: int = 0
    next_pause: int = 1
    longest_pause: int = _LONGEST_PAUSE
    trial: _Trial | None = None  # its own, where what others have brought says little

    @classmethod
    def of(cls, seat: Seat, common: _Trial) -> _Record:
        if not seat.has_prediction:
            return cls()
        trial = replace(common, rest=0, net=0.0, steps=0, since_control=0)
        return cls(longest_pause=_SHORT_PAUSE, trial=trial)


@dataclass(slots=True, eq=False)
class _Trial:
    """Whether drafting has paid of late, in plain steps gained; the longer it has, the longer it is
    trusted before the next judgement, for single steps say little."""

    net: float = 0.0
    steps: int = 0
    length: int = 4
    rest: int = 0
    next_rest: int = 16
    gain: float = 0.0  # a step, in the last trial
    since_control: int = 0
    bias: float = 1.0  # how much longer plain steps take than predicted
    expected: float = _DOUBT  # accepted drafts of late, foreseen …
    accepted: float = _DOUBT  # … and seen

    def is_plain(self) -> bool:
        """Whether the step that begins is to be plain: in a rest, or to see how long one takes."""
        self.since_control += 1
        if self.rest:
            self.rest -= 1
            self.since_control = 0
        elif self.gain < _CLEAR and self.since_control >= _CONTROL:
            self.since_control = 0
        return self.since_control == 0

    def settle(self, outcome: Outcome, num_sequences: int) -> None:
        """Tokens are counted as foreseen, times how far that has come true of late: what a single
        step brings is mostly luck."""
        length = min(_LONGEST_STEP, outcome.seconds / outcome.plain_seconds)
        if self.since_control == 0:
            self.bias += _LEARN * (length - self.bias)
            return
        self.expected += (1 - _KEPT) * (_DOUBT - self.expected) + outcome.expected
        self.accepted += (1 - _KEPT) * (_DOUBT - self.accepted) + outcome.accepted
        foreseen = outcome.expected * self.accepted / self.expected
        self.net += 1 + foreseen / num_sequences - length / self.bias
        self.steps += 1
        if self.steps == _TRIAL * self.length:
            self._judge()

    def _judge(self) -> None:
        self.gain = self.net / self.steps
        if self.gain < _WORTH_IT:
            self.rest = self.next_rest
            self.next_rest = min(_LONGEST_REST, 2 * self.next_rest)
            self.length = 1
        else:
            self.next_rest = max(16, self.next_rest // 2)
            self.length = min(4, self.length + 1)
        self.net, self.steps = 0.0, 0


@dataclass(slots=True)
class _Probes:
    """A budget for passes that are not expected to pay. One that pays nevertheless costs nothing:
    where things have changed for the better, the next follows at once."""

    credit: float = 0.0  # seconds
    spent: float = 0.0  # seconds of this step's probe, 0 if there is none
    price: float = 0.0
    row_price: float = 0.0  # tokens

    def earn(self, plain_seconds: float) -> None:
        self.credit = min(self.credit, _SAVED * plain_seconds) + _PROBING * plain_seconds
        self.spent = 0.0

    def spend(self, seconds: float, costs: StepCosts, row_price: float) -> bool:
        if seconds > self.credit:
            return False
        self.credit -= seconds
        self.spent, self.price, self.row_price = seconds, costs.price, row_price
        return True

    def found(self, before: Sequence[float], after: Sequence[float]) -> None:
        """Probabilities of the children of a node that was run, without the pass and with."""
        worth, known = (sum(max(0.0, p - self.row_price) for p in some) for some in (after, before))
        if worth - known > self.price * self.spent:
            self.credit += self.spent


class CastBuilder(Builder):
    """One for all sequences: they compete for rows, and the likeliest nodes win."""

    foresees = True

    def __init__(self) -> None:
        self._prospects = Prospects()
        self._records: dict[str, _Record] = {}
        self._weights: dict[str, float] = {}
        self._asked: list[bool] = []  # whom the drafter was asked to draft for, in this step
        self._probes = _Probes()
        self._share = 1.0  # of the roots that might have been run of late, those that were
        self._trials: dict[int, _Trial] = {}  # by how many sequences there are: doublings
        self._judged: set[_Trial] = set()  # by what comes of this step

    def limits(self, seats: Sequence[Seat], costs: StepCosts) -> list[DraftLimits]:
        common = self._trials.setdefault(costs.num_sequences.bit_length(), _Trial())
        self._records = {
            one.request_id: self._records.get(one.request_id) or _Record.of(one, common)
            for one in seats
        }
        trials = [self._records[one.request_id].trial or common for one in seats]
        resting = [one for one in set(trials) if one.is_plain()]
        is_awake = [one not in resting for one in trials]
        # A step that is plain for some only says nothing of plain steps.
        self._judged = {one for one in trials if one not in resting} or set(trials)
        if not any(is_awake):
            self._asked = is_awake
            return [NO_DRAFTS] * len(seats)
        self._weights = {one.request_id: one.weight for one in seats}
        self._probes.earn(costs.verify(0))
        row_price = marginal_price([], costs, ahead=len(seats))
        limits = [
            self._limits(seat, costs, row_price / seat.weight)
            if awake and self._takes_part(self._records[seat.request_id])
            else NO_DRAFTS
            for seat, awake in zip(seats, is_awake, strict=True)
        ]
        self._asked = [one.max_nodes > 0 for one in limits]
        return limits

    def widths(self, level: int, frontiers: Sequence[Frontier], costs: StepCosts) -> list[int]:
        """The set of nodes that is expected to add the most beyond what the pass costs."""
        weights = [self._weights[one.request_id] for one in frontiers]
        threshold = marginal_price(
            [
                weight * math.exp(log_prob)
                for one, weight in zip(frontiers, weights, strict=True)
                for log_prob in one.candidates
            ],
            costs,
            ahead=max(1, sum(len(one.log_probs) for one in frontiers)),
        )
        # Children are no likelier than their parents: below a row's price nothing can be gained.
        probs = [
            [
                p
                for p in (weight * math.exp(log_prob) for log_prob in one.log_probs)
                if p > threshold
            ]
            for one, weight in zip(frontiers, weights, strict=True)
        ]
        owners = np.repeat(np.arange(len(frontiers)), [len(one) for one in probs])
        if not len(owners):
            return [0] * len(frontiers)
        before = [
            children
            for one, mine in zip(frontiers, probs, strict=True)
            for children in one.free(len(mine))
        ]
        gains = self._prospects.gains(level, list(chain.from_iterable(probs)), before, threshold)
        paid_off = max(1.0, _AMORTISED * self._share)
        rows = np.array([1 + (frontiers[i].num_rows - 1) / paid_off for i in owners.tolist()])
        order = np.argsort(-gains / rows, kind="stable")
        values = np.cumsum(gains[order]) - costs.price * np.array(
            [costs.draft(math.ceil(count)) for count in np.cumsum(rows[order])]
        )
        best = int(values.argmax())
        chosen = order[: best + 1] if values[best] > 0 else order[:0]
        if level == 0:
            self._share += _FAITH * (len(chosen) - self._share * len(order))
            if not len(chosen):
                chosen = self._probe(frontiers, costs, threshold)
        widths: list[int] = np.bincount(owners[chosen], minlength=len(frontiers)).tolist()
        return widths

    def ran(
        self,
        level: int,
        frontiers: Sequence[Frontier],
        children: Sequence[Sequence[Sequence[float]]],
    ) -> None:
        for frontier, found in zip(frontiers, children, strict=True):
            if not found:
                continue
            for before, after in zip(frontier.free(len(found)), found, strict=True):
                self._prospects.learn(level, before, after)
                self._probes.found(before, after)

    def plan(self, frontiers: Sequence[Frontier], costs: StepCosts) -> StepShape:
        weights = [self._weights[one.request_id] for one in frontiers]
        widths = partial(self.widths, costs=costs)
        return foresee(widths, self._prospects, weights, frontiers, costs)

    def choose(
        self, trees: Sequence[DraftTree], seats: Sequence[Seat], costs: StepCosts
    ) -> list[DraftTree]:
        if not any(self._asked):
            return list(trees)
        weights = [seat.weight for seat in seats]
        chosen = allocate(trees, costs.verify, costs.price, costs.max_nodes, weights)
        self.verified(chosen, seats, costs)
        return chosen

    def verified(self, trees: Sequence[DraftTree], seats: Sequence[Seat], costs: StepCosts) -> None:
        """Judges who was asked by what has come of it."""
        gains = [
            seat.weight * float(np.exp(tree.log_probs_T).sum())
            for seat, tree in zip(seats, trees, strict=True)
        ]
        size = sum(map(len, trees))
        row_price = costs.price * (costs.verify(size) - costs.verify(0)) / max(1, size)
        for seat, tree, gain, is_asked in zip(seats, trees, gains, self._asked, strict=True):
            if is_asked:
                self._judge(self._records[seat.request_id], gain - row_price * len(tree), costs)

    def settle(self, outcome: Outcome, costs: StepCosts) -> None:
        """Whatever was expected: if steps with drafts bring less than plain ones, there are none
        for a while."""
        for one in self._judged:
            one.settle(outcome, costs.num_sequences)

    def _limits(self, seat: Seat, costs: StepCosts, row_price: float) -> DraftLimits:
        size = min(seat.size, costs.max_nodes)
        if row_price >= 1.0 or size <= 0 or seat.max_depth <= 0:
            return NO_DRAFTS
        return DraftLimits(
            max_nodes=size,
            max_depth=seat.max_depth,
            max_width=_WIDTH,
            max_levels=seat.levels or _LEVELS,
            level_width=_WIDTH,
            least=math.log(max(_LEAST, 0.7 * row_price)),
        )

    def _takes_part(self, record: _Record) -> bool:
        if record.pause:
            record.pause -= 1
            return False
        return True

    def _judge(self, record: _Record, surplus: float, costs: StepCosts) -> None:
        """Whoever does not earn the host's work is left alone for a while, ever longer."""
        record.surplus += (1 - _MEMORY) * (surplus - record.surplus)
        needed = costs.price * (costs.host(2) - costs.host(1))
        if record.surplus >= needed:
            record.next_pause = 1
        elif surplus < needed:
            record.pause = record.next_pause
            record.next_pause = min(record.longest_pause, 2 * record.next_pause)

    def _probe(
        self, frontiers: Sequence[Frontier], costs: StepCosts, row_price: float
    ) -> NDArray[np.int64]:
        """The cheapest root, if there is time for a pass that is not expected to pay."""
        able = [i for i, one in enumerate(frontiers) if one.log_probs]
        cheapest = min(able, key=lambda i: frontiers[i].num_rows)
        if not self._probes.spend(costs.draft(frontiers[cheapest].num_rows), costs, row_price):
            return np.array([], np.int64)
        return np.array([able.index(cheapest)], np.int64)
