"""Runs the units of an evaluation that are still missing, a phase at a time."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from cast_server.errors import EngineOverloadedError, RequestError
from cast_server.evaluators.base import Evaluator, Params, Record, Undefined, Unit
from cast_server.evaluators.jobs.job import Counts, Fault, JobFailure, Order, Progress
from cast_server.evaluators.jobs.metered import Meter, MeteredSubject
from cast_server.evaluators.jobs.strict_json import NotFiniteError, dumps
from cast_server.evaluators.subject import Subject

_logger = logging.getLogger(__name__)

SUMMARY_PHASE: Final = "summarise"
_OVERLOAD_PAUSE_SECONDS = 0.5


class EarlierFailedError(KeyError):
    """An evaluator asked for the record of a unit that has none, as it failed."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit)
        self.unit = unit


class _Done(dict[Unit, Record]):
    def __missing__(self, unit: Unit) -> Record:
        raise EarlierFailedError(unit)


@dataclass(frozen=True, slots=True)
class Place:
    """A unit of the model (side 0) or of the baseline (side 1)."""

    side: int
    unit: Unit

    @property
    def item(self) -> tuple[int, int]:
        return self.side, self.unit.index


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a unit: a record as JSON, or why there is none."""

    record: str | None
    fault: Fault | None = None
    is_undefined: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a run has so far; it stays as it is while the run goes on, and may go to a thread.

    Items are (side, index). records: for each side. faults: also of undefined items. ended: items
    all of whose units have ended. total: how many items are planned.
    """

    order: Order
    evaluator: Evaluator[Any]
    params: Params
    records: tuple[Mapping[Unit, Record], ...]
    faults: Mapping[tuple[int, int], Fault]
    undefined: frozenset[tuple[int, int]]
    ended: frozenset[tuple[int, int]]
    total: int


def changed_model(name: str) -> JobFailure:
    """An evaluation cannot go on with another model than it began with."""
    return JobFailure("model_changed", f"The model `{name}` is another one than when this began.")


class Sink(Protocol):
    """Keeps what is done. `item` is set where the unit was the last one of its item."""

    def __call__(self, place: Place, outcome: Outcome, item: dict[str, Any] | None) -> None: ...


class Run:
    """One evaluation on its way: what is planned, what is done, and what came out."""

    def __init__(
        self,
        order: Order,
        evaluator: Evaluator[Any],
        params: Params,
        known: Iterable[tuple[Place, Outcome]] = (),
        tokens: int = 0,
    ) -> None:
        """`known`: units that are done already, and `tokens` what they took."""
        self.order, self._evaluator, self._params = order, evaluator, params
        plan = evaluator.plan(params, order.inputs)
        self._records = tuple(_Done() for _ in order.models)
        self._faults: dict[tuple[int, int], Fault] = {}
        self._undefined: set[tuple[int, int]] = set()
        self._meter = Meter(order.limits.max_tokens, tokens)
        self._phases = list(dict.fromkeys(unit.phase for unit in plan))
        self._missing = dict.fromkeys(
            Place(side, unit) for unit in plan for side in range(len(order.models))
        )
        self._left = Counter(place.item for place in self._missing)
        self._ended: set[tuple[int, int]] = set()
        self._counts = Counts(total=len(self._left))
        self._progress = Progress(total=len(self._missing))
        self._begun = (time.monotonic(), 0)
        for place, outcome in known:
            self._note(place, outcome)

    @property
    def progress(self) -> Progress:
        begun, done_before = self._begun
        progress = replace(self._progress, tokens=self._meter.tokens)
        if not (done := progress.done - done_before):
            return progress
        seconds = (time.monotonic() - begun) / done * (progress.total - progress.done)
        return replace(progress, eta_seconds=round(seconds, 1))

    @property
    def counts(self) -> Counts:
        """As far as units tell; the evaluator may find more items undefined."""
        return self._counts

    def snapshot(self) -> Snapshot:
        """What there is now."""
        return Snapshot(
            self.order,
            self._evaluator,
            self._params,
            tuple(dict(records) for records in self._records),
            dict(self._faults),
            frozenset(self._undefined),
            frozenset(self._ended),
            self._counts.total,
        )

    async def execute(self, subjects: Sequence[Subject], concurrency: int, sink: Sink) -> None:
        """Runs what is missing. Cancelling it cancels the units that run; those that are done stay.

        Raises `JobFailure` if the evaluation cannot go on.
        """
        metered = [MeteredSubject(subject, self._meter) for subject in subjects]
        self._begun = (time.monotonic(), self._progress.done)
        for phase in self._phases:
            self._progress = replace(self._progress, phase=phase)
            todo = iter([place for place in self._missing if place.unit.phase == phase])
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(concurrency):
                        group.create_task(self._drain(todo, metered, sink))
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from failures
        self._progress = replace(self._progress, phase=SUMMARY_PHASE)

    async def _drain(self, todo: Iterator[Place], subjects: Sequence[Subject], sink: Sink) -> None:
        for place in todo:
            subject = subjects[place.side]
            if dict(subject.fingerprint) != self.order.fingerprints[place.side]:
                raise changed_model(self.order.models[place.side])
            outcome = await self._attempt(place, subject)
            has_ended = self._note(place, outcome)
            sink(place, outcome, self._item_news(place.item) if has_ended else None)
            if outcome.fault is not None and not outcome.is_undefined:
                self._check_tolerance(place, outcome.fault)

    def _check_tolerance(self, place: Place, fault: Fault) -> None:
        if self.order.limits.on_item_error == "fail":
            raise JobFailure("item_failed", f"Item {place.unit.index} failed: {fault.message}")

    async def _attempt(self, place: Place, subject: Subject) -> Outcome:
        try:
            return Outcome(dumps(await self._run_unit(place, subject)))
        except Undefined as undefined:
            message = f"The measure is undefined here: {undefined.reason}."
            return Outcome(None, Fault(undefined.reason, message), is_undefined=True)
        except RequestError as error:
            return Outcome(None, Fault(error.code or error.type, error.message))
        except EarlierFailedError as error:
            return self._outcome_without((place.side, error.unit.index))
        except NotFiniteError as error:
            return Outcome(None, Fault("not_finite", f"The record is no JSON: {error}."))
        except JobFailure:
            raise
        except Exception as error:
            _logger.error("Unforeseen failure in an evaluation", exc_info=error)
            return Outcome(None, Fault("internal_error", "The server failed on this item. Sorry."))

    def _outcome_without(self, item: tuple[int, int]) -> Outcome:
        """Of a unit that builds upon one of `item`, which failed or is undefined."""
        if item in self._undefined:
            return Outcome(None, self._faults[item], is_undefined=True)
        return Outcome(None, Fault("earlier_failed", "What it builds upon has failed."))

    async def _run_unit(self, place: Place, subject: Subject) -> Mapping[str, Any]:
        done = self._records[place.side]
        while True:
            try:
                return await self._evaluator.run(
                    place.unit, self._params, self.order.inputs, subject, done
                )
            except EngineOverloadedError:  # by clients, who come first
                await asyncio.sleep(_OVERLOAD_PAUSE_SECONDS)

    def _note(self, place: Place, outcome: Outcome) -> bool:
        """Whether the item has ended with it."""
        if place not in self._missing:
            return False
        del self._missing[place]
        if outcome.record is not None:
            # as it would come from the journal, so that a resumed evaluation is the same
            self._records[place.side][place.unit] = json.loads(outcome.record)
        elif outcome.fault is not None:
            self._note_fault(place, outcome.fault, outcome.is_undefined)
        self._progress = replace(self._progress, done=self._progress.done + 1)
        self._left[place.item] -= 1
        if self._left[place.item]:
            return False
        self._end(place.item)
        return True

    def _end(self, item: tuple[int, int]) -> None:
        del self._left[item]
        self._ended.add(item)
        counts = self._counts
        if item not in self._faults:
            self._counts = replace(counts, ok=counts.ok + 1)
        elif item in self._undefined:
            self._counts = replace(counts, undefined=counts.undefined + 1)
        else:
            self._counts = replace(counts, errored=counts.errored + 1)

    def _note_fault(self, place: Place, fault: Fault, is_undefined: bool) -> None:
        """The first fault of an item stands for it."""
        progress = self._progress
        if is_undefined:
            self._progress = replace(progress, undefined=progress.undefined + 1)
        else:
            self._progress = replace(progress, failed=progress.failed + 1)
        if place.item not in self._faults:
            self._faults[place.item] = fault
            if is_undefined:
                self._undefined.add(place.item)

    def _item_news(self, item: tuple[int, int]) -> dict[str, Any]:
        side, index = item
        failed = item in self._faults and item not in self._undefined
        return {"index": index, "model": self.order.models[side], "failed": failed}
