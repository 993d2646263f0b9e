"""/v1/evaluations"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import StreamingResponse

from cast_server.api.dependencies import EvaluationsDep
from cast_server.api.documented import content
from cast_server.api.evaluation_bodies import (
    CreateEvaluation,
    DeletedEvaluation,
    Evaluation,
    EvaluationList,
    about,
    create_request,
    evaluation,
    item_page,
    results_body,
)
from cast_server.api.evaluation_events import evaluation_events
from cast_server.api.streaming import EventStream
from cast_server.errors import ConflictError, RequestError, UnknownEvaluatorError
from cast_server.evaluators.base import Evaluator
from cast_server.evaluators.jobs.job import Job, Status
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.evaluators.jobs.strict_json import dumps

_NDJSON = "application/x-ndjson"
_STREAMED_ITEMS = 500
_Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
_LARGEST = 2**63 - 1  # that the journal can look for
_LastEvent = Annotated[int, Header(alias="Last-Event-ID", ge=0, le=_LARGEST)]
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class EvaluatorRoute(APIRoute):
    """Names faults by fields as clients wrote them; an evaluator that does not exist is a 404."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()

        async def handle_plainly(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise _plain(error) from error

        return handle_plainly


def evaluations_router(evaluators: Mapping[str, Evaluator[Any]]) -> APIRouter:
    """The bodies are those of whatever evaluators there are."""
    router = APIRouter(tags=["evaluations"])
    _add_create(router, evaluators)
    router.add_api_route("/v1/evaluations", list_evaluations, methods=["GET"])
    one = "/v1/evaluations/{evaluation_id}"
    router.add_api_route(one, retrieve_evaluation, methods=["GET"])
    router.add_api_route(one, delete_evaluation, methods=["DELETE"])
    router.add_api_route(f"{one}/cancel", cancel_evaluation, methods=["POST"])
    router.add_api_route(
        f"{one}/events",
        stream_events,
        methods=["GET"],
        response_class=Response,
        responses=content("text/event-stream") | {204: {"description": "There is no more news."}},
    )
    for path, handler, body, others in (
        ("results", retrieve_results, results_body(evaluators.values()), ()),
        ("items", list_items, item_page(evaluators.values()), (_NDJSON,)),
    ):
        router.add_api_route(
            f"{one}/{path}",
            handler,
            methods=["GET"],
            response_model=body,
            responses=content(*others),
        )
    return router


def _add_create(router: APIRouter, evaluators: Mapping[str, Evaluator[Any]]) -> None:
    body_type = create_request(evaluators.values())

    async def create_evaluation(
        body: body_type,  # type: ignore[valid-type]
        response: Response,
        evaluations: EvaluationsDep,
        idempotency_key: _Key = None,
    ) -> Evaluation:
        """Queues an evaluation. The same Idempotency-Key with the same body is the same one."""
        job = _submit(body, evaluations, idempotency_key)
        response.headers["Location"] = f"/v1/evaluations/{job.id}"
        return _view(job, evaluations)

    router.add_api_route(
        "/v1/evaluations",
        create_evaluation,
        methods=["POST"],
        status_code=202,
        route_class_override=EvaluatorRoute,
    )


def _submit(body: CreateEvaluation, evaluations: Evaluations, key: str | None) -> Job:
    order = evaluations.order(
        body.evaluator, body.models, body.params, body.input, body.limits, body.metadata
    )
    return evaluations.submit(order, key)


async def list_evaluations(
    evaluations: EvaluationsDep,
    status: Status | None = None,
    evaluator: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
) -> EvaluationList:
    """Lists evaluations, the newest first."""
    jobs = evaluations.page(limit + 1, after, status, evaluator)
    data = [_view(job, evaluations) for job in jobs[:limit]]
    return EvaluationList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(jobs) > limit,
    )


async def retrieve_evaluation(evaluation_id: str, evaluations: EvaluationsDep) -> Evaluation:
    """Tells how far an evaluation has come."""
    return _view(evaluations.find(evaluation_id), evaluations)


async def cancel_evaluation(evaluation_id: str, evaluations: EvaluationsDep) -> Evaluation:
    """Stops an evaluation; what is done stays. One that has ended is left as it is."""
    return _view(evaluations.cancel(evaluation_id), evaluations)


async def delete_evaluation(evaluation_id: str, evaluations: EvaluationsDep) -> DeletedEvaluation:
    """Deletes an evaluation that has ended, with all that it found."""
    evaluations.delete(evaluation_id)
    return DeletedEvaluation(id=evaluation_id)


async def stream_events(
    evaluation_id: str, evaluations: EvaluationsDep, http: Request, last_event_id: _LastEvent = 0
) -> Response:
    """News as server-sent events, from the beginning or behind Last-Event-ID, until the end."""
    job = evaluations.find(evaluation_id)
    if job.status.is_final and not evaluations.events(job.id, last_event_id):
        return Response(status_code=204)  # which tells clients not to come back
    lifecycle = http.app.state.lifecycle
    return EventStream(evaluation_events(evaluations, job.id, last_event_id, lifecycle))


async def retrieve_results(
    evaluation_id: str, evaluations: EvaluationsDep, partial: bool = False
) -> Response:
    """Summaries and comparison; with `partial`, also of what there is before the end."""
    job = evaluations.find(evaluation_id)
    if not (job.status.is_final or partial):
        raise ConflictError(
            f"The evaluation is {job.status}: wait for its end, or ask for ?partial=true.",
            code="not_finished",
        )
    findings = await evaluations.findings(job)
    warnings = {"warnings": evaluations.warnings(job)}
    head = {"object": "evaluation.results", "evaluation": job.id, "status": job.status}
    return Response(dumps(head | about(job) | findings | warnings), media_type="application/json")


async def list_items(
    evaluation_id: str,
    evaluations: EvaluationsDep,
    after: Annotated[int, Query(ge=-1, le=_LARGEST)] = -1,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """A page of items; with `Accept: application/x-ndjson` all of them, a line each."""
    job = evaluations.find(evaluation_id)
    if _NDJSON in accept:
        return StreamingResponse(_lines(evaluations, job, after, limit), media_type=_NDJSON)
    size = limit or 100
    found = await evaluations.items(job, after, size + 1)
    texts = ",".join(text for _, text in found[:size])
    has_more = len(found) > size
    tail = dumps({"has_more": has_more, "next": found[size - 1][0] if has_more else None})
    head = dumps({"object": "list", "evaluator": job.evaluator})
    # items are JSON already, and many
    body = f'{head[:-1]},"data":[{texts}],{tail[1:]}'
    return Response(body, media_type="application/json")


async def _lines(
    evaluations: Evaluations, job: Job, after: int, limit: int | None
) -> AsyncGenerator[bytes, None]:
    left = limit
    while found := await evaluations.items(
        job, after, min(left or _STREAMED_ITEMS, _STREAMED_ITEMS)
    ):
        yield "".join(f"{text}\n" for _, text in found).encode()
        after = found[-1][0]
        if left is not None and not (left := left - len(found)):
            return


def _view(job: Job, evaluations: Evaluations) -> Evaluation:
    return evaluation(job, evaluations.queue_position(job))


def _plain(error: RequestValidationError) -> RequestError | RequestValidationError:
    """Without the names of evaluators that a union puts into the paths of fields."""
    fault, body = error.errors()[0], error.body
    named = body.get("evaluator") if isinstance(body, dict) else None
    location = list(fault["loc"])
    if fault["type"] == "union_tag_invalid" or location == ["body", "evaluator"]:
        if isinstance(named, str):
            return UnknownEvaluatorError(
                f"The evaluator `{named[:80]}` does not exist.", "evaluator"
            )
        kind = "missing" if named is None else "string_type"
        fault = {**fault, "type": kind, "msg": "should be a string", "input": named}
        location = ["body", "evaluator"]
    if fault["type"] == "union_tag_not_found" and isinstance(body, dict):
        fault, location = {**fault, "type": "missing"}, ["body", "evaluator"]
    elif len(location) > 2 and location[0] == "body" and location[1] == named:
        del location[1]
    return RequestValidationError([{**fault, "loc": tuple(location)}], body=body)
