"""A span for each request that reached the engine, sent to an OpenTelemetry collector.

Attributes have the names that vLLM gives them, where it has one; castserve's own are below
`castserve.`. There is no text of a prompt or an answer among them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from cast_server.errors import ConfigError
from cast_server.observing.exchange import Exchange
from cast_server.observing.request_log import generation_fields, num_prompt_tokens
from cast_server.observing.request_times import request_times

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_PATH: Final = "/v1/traces"
_ANSWER_SECONDS: Final = 5.0  # that a collector has for an answer


def check_endpoint(endpoint: str | None) -> None:
    """Raises `ConfigError` if spans cannot be sent there, for want of a package or a URL."""
    if endpoint is None:
        return
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"--otlp-endpoint {endpoint}: a URL such as http://127.0.0.1:4318.")
    if _is_missing("opentelemetry.sdk") or _is_missing("opentelemetry.exporter.otlp.proto.http"):
        raise ConfigError(
            "--otlp-endpoint needs OpenTelemetry's packages: pip install 'castserve[otel]'."
        )


class Tracer:
    """Makes spans of exchanges that have ended. Sending them takes a thread of its own."""

    def __init__(self, processor: SpanProcessor, model_name: str) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider

        own = Resource({"service.name": "castserve"})
        resource = own.merge(OTELResourceDetector().detect())  # the environment knows better
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("castserve")
        self._model_name = model_name

    def record(self, exchange: Exchange) -> None:
        """A child of the span that the client named in `traceparent`, if it did."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        span = self._tracer.start_span(
            "llm_request",
            context=TraceContextTextMapPropagator().extract(exchange.headers),
            kind=SpanKind.SERVER,
            start_time=exchange.clock,
            attributes=attributes(exchange, self._model_name),
        )
        if exchange.error is not None:
            span.set_status(Status(StatusCode.ERROR, exchange.error))
        span.end(exchange.clock + int(1e9 * exchange.seconds))

    def close(self) -> None:
        """Sends what is left; may take some seconds if nobody listens."""
        self._provider.shutdown()


def open_tracer(endpoint: str, model_name: str) -> Tracer:
    """Sends to a collector of OTLP over HTTP. Raises `ConfigError` as `check_endpoint`."""
    check_endpoint(endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    url = endpoint.rstrip("/")
    exporter = OTLPSpanExporter(
        url if url.endswith(_PATH) else url + _PATH, timeout=_ANSWER_SECONDS
    )
    return Tracer(BatchSpanProcessor(exporter), model_name)


def attributes(exchange: Exchange, model_name: str) -> dict[str, Any]:
    """What a span says. Attributes without a value are left out."""
    times = request_times(one.latest for one in exchange.generations)
    fields = generation_fields(exchange)
    request = exchange.generations[0].request
    drafted = fields["drafted"]
    all_of_them = {
        "gen_ai.request.id": exchange.request_id,
        "gen_ai.request.model": model_name,
        "gen_ai.response.model": model_name,
        "gen_ai.request.n": len(exchange.generations),
        "gen_ai.request.temperature": request.params.temperature,
        "gen_ai.request.top_p": request.params.top_p,
        "gen_ai.request.top_k": request.params.top_k,
        "gen_ai.request.max_tokens": request.params.max_tokens,
        "gen_ai.usage.num_sequences": len(exchange.generations),
        "gen_ai.usage.prompt_tokens": num_prompt_tokens(exchange),
        "gen_ai.usage.completion_tokens": fields["completion_tokens"],
        "gen_ai.response.finish_reasons": fields["finish_reason"].split(","),
        "gen_ai.latency.time_in_queue": times.queue,
        "gen_ai.latency.time_to_first_token": times.first_token,
        "gen_ai.latency.e2e": times.total,
        "gen_ai.latency.time_in_model_prefill": times.prefill,
        "gen_ai.latency.time_in_model_decode": times.generation,
        "gen_ai.latency.time_in_model_inference": times.inference,
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "castserve.policy": fields["policy"],
        "castserve.draft_tokens": drafted,
        "castserve.accepted_draft_tokens": fields["accepted"],
        "castserve.draft_acceptance_rate": fields["accepted"] / drafted if drafted else None,
        "castserve.cached_tokens": fields["cached_tokens"],
        "castserve.owner": request.owner or None,
        "error.type": exchange.error,
    }
    return {name: value for name, value in all_of_them.items() if value is not None}


def _is_missing(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:
        return True
