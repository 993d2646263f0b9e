"""What comes out of an evaluation: items, a summary for each model, and a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

from cast_server.evaluators.jobs.comparison import PairedDifference, compare
from cast_server.evaluators.jobs.job import Counts
from cast_server.evaluators.jobs.run import Snapshot

ItemT = TypeVar("ItemT", bound=BaseModel)
SummaryT = TypeVar("SummaryT", bound=BaseModel)


class ErrorNote(BaseModel):
    """Why an item, or an evaluation, failed or is undefined."""

    code: str
    message: str


class EvaluatedItem(BaseModel, Generic[ItemT]):
    """One item of one model. It is complete once all its units have ended, well or badly.

    position: its place among all items of the evaluation; `after` takes it. status: null until the
    item is complete.
    """

    position: int
    index: int
    model: str
    complete: bool
    status: Literal["ok", "errored", "undefined"] | None
    error: ErrorNote | None
    result: ItemT | None


class Findings(BaseModel, Generic[SummaryT]):
    """Over all complete items that did not fail. Of a comparison, metrics are paired by item."""

    complete: bool
    counts: Counts
    summary: SummaryT | None
    baseline_summary: SummaryT | None
    comparison: dict[str, PairedDifference] | None


@dataclass(frozen=True, slots=True)
class Results:
    """Of a snapshot: all items in their order, and what they come to."""

    items: list[EvaluatedItem[BaseModel]]
    findings: Findings[BaseModel]


def items_of(snapshot: Snapshot) -> list[EvaluatedItem[BaseModel]]:
    """All items that something is known of. May take a while: not for the event loop."""
    sides = range(len(snapshot.records))
    listed = [item for side in sides for item in _side_items(snapshot, side)]
    return sorted(listed, key=lambda item: item.position)


def results_of(snapshot: Snapshot) -> Results:
    """Items and findings. Not for the event loop either."""
    items = items_of(snapshot)
    sides = [_finished(items, model) for model in snapshot.order.models]
    summaries = [
        snapshot.evaluator.summarise(snapshot.params, list(side.values())) if side else None
        for side in sides
    ]
    is_pair = len(sides) == 2
    findings = Findings[BaseModel](
        complete=len(snapshot.ended) == snapshot.total,
        counts=_counts(items, snapshot.total),
        summary=summaries[0],
        baseline_summary=summaries[1] if is_pair else None,
        comparison=compare(snapshot.evaluator.metrics, *sides) if is_pair else None,
    )
    return Results(items, findings)


def _side_items(snapshot: Snapshot, side: int) -> list[EvaluatedItem[BaseModel]]:
    made = snapshot.evaluator.items(snapshot.params, snapshot.order.inputs, snapshot.records[side])
    by_index = {getattr(item, "index", place): item for place, item in enumerate(made)}
    faulty = {index for its_side, index in snapshot.faults if its_side == side}
    return [_item(snapshot, side, index, by_index.get(index)) for index in by_index.keys() | faulty]


def _item(
    snapshot: Snapshot, side: int, index: int, result: BaseModel | None
) -> EvaluatedItem[BaseModel]:
    place = (side, index)
    fault = snapshot.faults.get(place)
    is_complete = place in snapshot.ended
    is_undefined = place in snapshot.undefined or (
        fault is None and getattr(result, "status", None) == "undefined"
    )
    status: Literal["ok", "errored", "undefined"] = "ok" if fault is None else "errored"
    return EvaluatedItem[BaseModel](
        position=index * len(snapshot.records) + side,
        index=index,
        model=snapshot.order.models[side],
        complete=is_complete,
        status=None if not is_complete else "undefined" if is_undefined else status,
        error=fault and ErrorNote(code=fault.code, message=fault.message),
        result=result,
    )


def _finished(items: Sequence[EvaluatedItem[BaseModel]], model: str) -> Mapping[int, BaseModel]:
    return {
        item.index: item.result
        for item in items
        if item.model == model and item.result is not None and item.status in ("ok", "undefined")
    }


def _counts(items: Sequence[EvaluatedItem[BaseModel]], total: int) -> Counts:
    by_status = Counter(item.status for item in items)
    return Counts(total, by_status["ok"], by_status["errored"], by_status["undefined"])
