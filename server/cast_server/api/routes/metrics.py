"""/metrics, in Prometheus' text format"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cast_server.api.dependencies import EngineDep
from cast_server.engine.meter import SpeculationReport

router = APIRouter(tags=["operations"])


@router.get("/metrics", response_class=Response)
async def metrics(engine: EngineDep) -> Response:
    """Predicted beside actual: step times and accepted draft tokens."""
    registry = CollectorRegistry()
    registry.register(_Collector(engine.report()))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Collector:
    def __init__(self, report: SpeculationReport) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        one = self._report
        for name, text, value in (
            ("decode_steps", "Steps that only decoded.", one.steps),
            ("decode_step_seconds", "What they took.", one.seconds),
            (
                "decode_step_predicted_seconds",
                "What the cost model had predicted.",
                one.predicted_seconds,
            ),
            ("decoded_tokens", "Tokens that they committed.", one.tokens),
            ("draft_tokens", "Draft tokens verified.", one.draft_tokens),
            ("accepted_draft_tokens", "Draft tokens accepted.", one.accepted),
            (
                "expected_accepted_draft_tokens",
                "Draft tokens that the calibration had expected to be accepted.",
                one.expected,
            ),
        ):
            yield CounterMetricFamily(f"castserve_{name}", text, value)
        choices = CounterMetricFamily(
            "castserve_policy_choices", "Sequences by what a step did for them.", labels=["choice"]
        )
        choices.add_metric(["drafted"], one.drafted_steps)
        choices.add_metric(["plain"], one.plain_steps)
        yield choices
        errors = GaugeMetricFamily(
            "castserve_step_prediction_error",
            "Quantiles of |predicted - actual| / actual step time, last steps.",
            labels=["quantile"],
        )
        for quantile, value in one.step_errors.items():
            errors.add_metric([quantile], value)
        yield errors
        yield GaugeMetricFamily(
            "castserve_acceptance_calibration_error",
            "Expected calibration error of acceptance probabilities.",
            one.calibration_error,
        )
        yield GaugeMetricFamily(
            "castserve_cost_drift",
            "Time of the target's passes now over that in the profile.",
            one.drift,
        )
