"""/v1/evaluators"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from cast_server.api.dependencies import EvaluationsDep
from cast_server.api.evaluation_bodies import (
    EvaluatorCard,
    EvaluatorList,
    EvaluatorResult,
    Limits,
    RunRequest,
    about,
    default_params,
    run_request,
)
from cast_server.api.generation import run_while_connected
from cast_server.evaluators.base import Evaluator
from cast_server.evaluators.jobs.limits import MAX_JOB_SECONDS, MAX_JOB_TOKENS, ServiceLimits
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.evaluators.jobs.strict_json import dumps


def evaluators_router(evaluators: Mapping[str, Evaluator[Any]]) -> APIRouter:
    """Beside what they all share, each evaluator has an endpoint with bodies of its own."""
    router = APIRouter(tags=["evaluators"])
    router.add_api_route("/v1/evaluators", list_evaluators, methods=["GET"])
    router.add_api_route("/v1/evaluators/{evaluator_id}", retrieve_evaluator, methods=["GET"])
    for evaluator in evaluators.values():
        _add_run(router, evaluator)
    router.add_api_route(
        "/v1/evaluators/{evaluator_id}/run",
        run_unknown_evaluator,
        methods=["POST"],
        include_in_schema=False,
    )
    return router


async def list_evaluators(evaluations: EvaluationsDep) -> EvaluatorList:
    """Lists what can be evaluated, with the schemas of parameters and results."""
    cards = [_card(one, evaluations.limits) for one in evaluations.evaluators.values()]
    return EvaluatorList(data=cards)


async def retrieve_evaluator(evaluator_id: str, evaluations: EvaluationsDep) -> EvaluatorCard:
    """Describes one evaluator."""
    return _card(evaluations.evaluator(evaluator_id), evaluations.limits)


async def run_unknown_evaluator(evaluator_id: str, evaluations: EvaluationsDep) -> None:
    """Says that there is none."""
    evaluations.evaluator(evaluator_id)


def _add_run(router: APIRouter, evaluator: Evaluator[Any]) -> None:
    body_type = run_request(evaluator)
    result_type = EvaluatorResult[evaluator.item_type, evaluator.summary_type]  # type: ignore[name-defined]

    async def run(body: body_type, http: Request, evaluations: EvaluationsDep) -> Response:  # type: ignore[valid-type]
        answer = await run_while_connected(_run(evaluator, body, evaluations), http.receive)
        return Response(answer, media_type="application/json")

    router.add_api_route(
        f"/v1/evaluators/{evaluator.id}/run",
        run,
        methods=["POST"],
        response_model=result_type,
        name=f"run_{evaluator.id}",
        summary=evaluator.title,
        description=f"{evaluator.description} For small inputs, answered at once.",
    )


async def _run(evaluator: Evaluator[Any], body: RunRequest, evaluations: Evaluations) -> str:
    order = evaluations.order(evaluator.id, body.models, body.params, body.input)
    results = await evaluations.run_now(order)
    findings = results.findings.model_dump(serialize_as_any=True)
    warnings = [
        {
            "code": "item_failed",
            "message": f"Item {item.index} of {item.model}: {item.error.message}",
            "index": item.index,
        }
        for item in results.items
        if item.status == "errored" and item.error is not None
    ]
    items = {"items": results.items, "warnings": warnings}
    return dumps({"object": "evaluator.result"} | about(order) | findings | items)


def _card(evaluator: Evaluator[Any], limits: ServiceLimits) -> EvaluatorCard:
    params = default_params(evaluator)
    return EvaluatorCard(
        id=evaluator.id,
        version=evaluator.version,
        title=evaluator.title,
        description=evaluator.description,
        requires=None if params is None else sorted(evaluator.requires(params)),
        metrics=list(evaluator.metrics),
        params_schema=evaluator.params_type.model_json_schema(),
        item_schema=evaluator.item_type.model_json_schema(),
        summary_schema=evaluator.summary_type.model_json_schema(),
        limits=Limits(**asdict(limits), max_tokens=MAX_JOB_TOKENS, max_seconds=MAX_JOB_SECONDS),
    )
