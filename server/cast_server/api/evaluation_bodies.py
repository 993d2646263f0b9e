"""Bodies of the evaluators' and evaluations' endpoints, made of whatever evaluators there are.

Fields that do not exist are errors here: a misspelt limit must not go unnoticed for hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)

from cast_server.evaluators.base import Evaluator, Params
from cast_server.evaluators.jobs.job import Counts, Job, Progress, Status
from cast_server.evaluators.jobs.limits import JobLimits
from cast_server.evaluators.jobs.results import (
    ErrorNote,
    EvaluatedItem,
    Findings,
    ItemT,
    SummaryT,
)

_Body = TypeVar("_Body", bound=BaseModel)
_Name = Annotated[str, Field(max_length=64)]


def _as_texts(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_encodes(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode, without half a surrogate pair") from error
    return text


_Text = Annotated[str, AfterValidator(_check_encodes)]


class RunRequest(BaseModel):
    """What to evaluate, on which model. A baseline is measured on the same items."""

    model_config = ConfigDict(extra="forbid")

    model: str
    baseline_model: str | None = None
    input: Annotated[
        list[_Text], BeforeValidator(_as_texts, json_schema_input_type=str | list[str])
    ] = []
    params: Params

    @property
    def models(self) -> tuple[str, ...]:
        """The model, and the baseline if there is one."""
        return (self.model,) if self.baseline_model is None else (self.model, self.baseline_model)


class CreateEvaluation(RunRequest):
    """The same as a job."""

    evaluator: str
    limits: JobLimits = JobLimits()
    metadata: dict[_Name, Annotated[str, Field(max_length=512)]] = Field({}, max_length=16)


class Limits(BaseModel):
    """What may be asked. sync_*: for answers at once; the others: for jobs."""

    sync_items: int
    sync_tokens: int
    sync_seconds: float
    max_items: int
    max_tokens: int
    max_seconds: float
    queue_length: int
    concurrency: int
    keep_seconds: float
    keep_bytes: int


class EvaluatorCard(BaseModel):
    """An evaluator and how to ask it. requires: with default parameters; null if it has none."""

    id: str
    object: Literal["evaluator"] = "evaluator"
    version: str
    title: str
    description: str
    requires: list[str] | None
    metrics: list[str]
    params_schema: dict[str, Any]
    item_schema: dict[str, Any]
    summary_schema: dict[str, Any]
    limits: Limits


class EvaluatorList(BaseModel):
    """All evaluators."""

    object: Literal["list"] = "list"
    data: list[EvaluatorCard]


class _About(BaseModel):
    evaluator: str
    evaluator_version: str
    model: str
    baseline_model: str | None
    fingerprints: dict[str, dict[str, str]]
    params: dict[str, Any]


class Evaluation(_About):
    """A job. Times are Unix seconds; `result_counts` counts items, `progress` units of work."""

    id: str
    object: Literal["evaluation"] = "evaluation"
    status: Status
    limits: JobLimits
    metadata: dict[str, str]
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float
    queue_position: int | None
    progress: Progress
    result_counts: Counts
    error: ErrorNote | None
    cancel_requested: bool


class EvaluationList(BaseModel):
    """A page of evaluations, the newest first."""

    object: Literal["list"] = "list"
    data: list[Evaluation]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedEvaluation(BaseModel):
    """It is gone."""

    id: str
    object: Literal["evaluation.deleted"] = "evaluation.deleted"
    deleted: Literal[True] = True


class Warning(BaseModel):
    """What was odd: `item_failed`, with the item's index, or `resumed` after a restart."""

    code: str
    message: str
    index: int | None = None


class _Report(_About, Findings[SummaryT], Generic[SummaryT]):
    warnings: list[Warning]


class EvaluatorResult(_Report[SummaryT], Generic[ItemT, SummaryT]):
    """The answer to an evaluation that is answered at once."""

    object: Literal["evaluator.result"] = "evaluator.result"
    items: list[EvaluatedItem[ItemT]]


class EvaluationResults(_Report[SummaryT], Generic[SummaryT]):
    """What an evaluation came to. Its items have a resource of their own."""

    object: Literal["evaluation.results"] = "evaluation.results"
    evaluation: str
    status: Status


class ItemPage(BaseModel, Generic[ItemT]):
    """A page of items by position; `next` is the `after` of the page behind it."""

    object: Literal["list"] = "list"
    evaluator: str
    data: list[EvaluatedItem[ItemT]]
    has_more: bool
    next: int | None


def run_request(evaluator: Evaluator[Any]) -> type[RunRequest]:
    """The body of an evaluator's own endpoint."""
    return create_model(
        f"{_camel(evaluator.id)}RunRequest", __base__=RunRequest, params=_params_field(evaluator)
    )


def create_request(evaluators: Iterable[Evaluator[Any]]) -> Any:
    """The body of any evaluation: told by its field `evaluator`."""
    bodies = [
        create_model(
            f"Create{_camel(evaluator.id)}Evaluation",
            __base__=CreateEvaluation,
            evaluator=_told_by(evaluator),
            params=_params_field(evaluator),
        )
        for evaluator in evaluators
    ]
    return _any_of(bodies, CreateEvaluation)


def results_body(evaluators: Iterable[Evaluator[Any]]) -> Any:
    """The results of any evaluation."""
    bodies = [
        _named(f"{_camel(one.id)}Results", EvaluationResults[one.summary_type], one)  # type: ignore[name-defined]
        for one in evaluators
    ]
    return _any_of(bodies, EvaluationResults)


def item_page(evaluators: Iterable[Evaluator[Any]]) -> Any:
    """The items of any evaluation."""
    bodies = [
        _named(f"{_camel(one.id)}ItemPage", ItemPage[one.item_type], one)  # type: ignore[name-defined]
        for one in evaluators
    ]
    return _any_of(bodies, ItemPage)


def default_params(evaluator: Evaluator[Any]) -> Params | None:
    """None if there is a parameter that has to be given."""
    try:
        return evaluator.params_type()
    except ValidationError:
        return None


def evaluation(job: Job, queue_position: int | None) -> Evaluation:
    """A job as it is told to clients."""
    return Evaluation(
        **about(job),
        id=job.id,
        status=job.status,
        limits=job.limits,
        metadata=dict(job.metadata),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        expires_at=job.expires_at,
        queue_position=queue_position,
        progress=job.progress,
        result_counts=job.counts,
        error=job.error and ErrorNote(code=job.error.code, message=job.error.message),
        cancel_requested=job.cancel_requested,
    )


def about(work: Any) -> dict[str, Any]:
    """What was evaluated how, of an `Order` or a `Job`."""
    return {
        "evaluator": work.evaluator,
        "evaluator_version": work.version,
        "model": work.models[0],
        "baseline_model": work.models[1] if len(work.models) == 2 else None,
        "fingerprints": dict(zip(work.models, map(dict, work.fingerprints), strict=True)),
        "params": dict(work.params),
    }


def _params_field(evaluator: Evaluator[Any]) -> Any:
    default = default_params(evaluator)
    return (evaluator.params_type, ... if default is None else default)


def _named(name: str, body: type[_Body], evaluator: Evaluator[Any]) -> type[_Body]:
    return create_model(name, __base__=body, evaluator=_told_by(evaluator))


def _told_by(evaluator: Evaluator[Any]) -> Any:
    return (Literal[evaluator.id], ...)


def _any_of(bodies: Sequence[type[BaseModel]], base: type[BaseModel]) -> Any:
    if len(bodies) < 2:
        return bodies[0] if bodies else base
    return Annotated[Union[tuple(bodies)], Field(discriminator="evaluator")]  # noqa: UP007


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in re.split(r"\W|_", name))
