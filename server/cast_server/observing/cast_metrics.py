"""What is castserve's own, for Prometheus: predicted beside actual, what was drafted and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cast_drafters.tree import SOURCES
from cast_server.engine.ledger import Figures, Ledger
from cast_server.engine.meter import SpeculationReport
from cast_server.observing.families import Engine, counter, gauge, histogram
from cast_server.observing.http_counts import HttpCounts


class CastCollector(Collector):
    """Of the engine: sums, then errors, then what steps did."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would collect when this is registered

    def collect(self) -> Iterable[Metric]:
        figures = self._engine.figures()
        yield from _sums(figures.speculation)
        yield from _errors(figures.speculation)
        yield from _steps(figures.ledger)
        yield from _sources(figures)
        yield from _shares(figures)


class HttpCollector(Collector):
    """Of HTTP requests, and of evaluations if there are any."""

    def __init__(
        self, counts: HttpCounts, evaluations: Callable[[], Mapping[str, int]] | None
    ) -> None:
        self._counts, self._evaluations = counts, evaluations

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would collect when this is registered

    def collect(self) -> Iterable[Metric]:
        counts = self._counts
        labels = ("route", "method", "status")
        yield counter(
            "castserve_http_requests",
            "HTTP requests that ended.",
            [(dict(zip(labels, key, strict=True)), n) for key, n in counts.requests.items()],
            labels,
        )
        yield histogram(
            "castserve_http_request_seconds",
            "From a request's first byte to the last of its answer.",
            [({"route": route}, one) for route, one in counts.seconds.items()],
            ("route",),
        )
        yield _labelled("errors", "Failures told to clients.", "code", counts.errors)
        yield _labelled(
            "aborted_requests", "The engine's requests, cut short.", "cause", counts.aborted
        )
        if self._evaluations is not None:
            yield gauge(
                "castserve_evaluations",
                "Evaluations that have not ended.",
                [({"status": status}, n) for status, n in self._evaluations().items()],
                ("status",),
            )


def _sums(one: SpeculationReport) -> Iterable[Metric]:
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
        yield counter(f"castserve_{name}", text, [({}, value)], ())
    choices = {"drafted": one.drafted_steps, "plain": one.plain_steps}
    yield _labelled("policy_choices", "Sequences by what a step did for them.", "choice", choices)


def _errors(one: SpeculationReport) -> Iterable[Metric]:
    yield gauge(
        "castserve_step_prediction_error",
        "Quantiles of |predicted - actual| / actual step time, last steps.",
        [({"quantile": quantile}, value) for quantile, value in one.step_errors.items()],
        ("quantile",),
    )
    yield gauge(
        "castserve_acceptance_calibration_error",
        "Expected calibration error of acceptance probabilities.",
        [({}, one.calibration_error)],
        (),
    )
    yield gauge(
        "castserve_cost_drift",
        "Time of the target's passes now over that in the profile.",
        [({}, one.drift)],
        (),
    )


def _steps(ledger: Ledger) -> Iterable[Metric]:
    for name, text, one in (
        ("step_seconds", "Seconds of steps that only decoded.", ledger.step_seconds),
        ("predicted_step_seconds", "What was predicted of them.", ledger.predicted_seconds),
        (
            "step_prediction_relative_error",
            "|predicted - actual| / actual seconds of steps that only decoded.",
            ledger.prediction_error,
        ),
        ("draft_nodes", "Nodes that a step verified for a decoding sequence.", ledger.nodes),
    ):
        yield histogram(f"castserve_{name}", text, [({}, one)], ())
    yield _labelled(
        "draft_shapes",
        "Decoding sequences by what a step verified for them.",
        "shape",
        ledger.choices,
    )


def _sources(figures: Figures) -> Iterable[Metric]:
    ledger, names = figures.ledger, (figures.drafter, *SOURCES[1:])
    for name, text, counts in (
        ("draft_tokens_by_source", "Draft tokens verified.", ledger.drafted_by),
        ("accepted_tokens_by_source", "Draft tokens accepted.", ledger.accepted_by),
    ):
        named = {_name(names, source): count for source, count in counts.items()}
        yield _labelled(name, text, "source", named)


def _shares(figures: Figures) -> Iterable[Metric]:
    ledger = figures.ledger
    yield _labelled(
        "engine_busy_seconds", "What the engine's thread worked on.", "work", ledger.busy
    )
    yield counter(
        "castserve_background_tokens",
        "Tokens generated for evaluations.",
        [({}, ledger.background_tokens)],
        (),
    )
    yield gauge(
        "castserve_background_requests",
        "Requests of evaluations in the engine.",
        [({}, figures.background)],
        (),
    )


def _name(names: Sequence[str], source: int) -> str:
    return names[source] if 0 <= source < len(names) else str(source)


def _labelled(name: str, text: str, label: str, counts: Mapping[str, float]) -> Metric:
    return counter(
        f"castserve_{name}", text, [({label: key}, n) for key, n in counts.items()], (label,)
    )
