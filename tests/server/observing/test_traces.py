"""Spans: in memory, and over a real socket to somebody who speaks OTLP."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import tiny_models
from observed_server import observed
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cast_server import cli
from cast_server.config import HttpConfig
from cast_server.engine.async_engine import AsyncEngine
from cast_server.errors import ConfigError
from cast_server.observing.observer import Observer
from cast_server.observing.traces import Tracer, check_endpoint

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = {"prompt": "the cat and the cat and the", "max_tokens": 12, "temperature": 0}
BODY |= {"ignore_eos": True, "speculation": {"policy": "chain:3"}}


@pytest.fixture(scope="module")
def engine():
    with tiny_models.one_thread():
        core = tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama))
        engine = AsyncEngine(core, "tiny")
        engine.start()
        yield engine
        engine.stop()


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def client(engine, exporter):
    tracer = Tracer(SimpleSpanProcessor(exporter), "tiny")
    with observed(engine, observer=Observer(engine, HttpConfig(), tracer=tracer)) as client:
        yield client


def spans(client, exporter) -> tuple:
    client.get("/health")  # a span is made after its answer's end, but before the next request's
    return exporter.get_finished_spans()


def test_a_span_says_what_the_answer_says(client, exporter) -> None:
    headers = {"traceparent": PARENT, "x-request-id": "mine"}
    answer = client.post("/v1/completions", json=BODY, headers=headers).json()
    (span,) = spans(client, exporter)
    drafting = answer["metrics"]["speculative_decoding"]
    assert span.name == "llm_request"
    assert span.parent.span_id == 0xB7AD6B7169203331
    assert span.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    attributes = dict(span.attributes)
    for name, expected in {
        "gen_ai.request.id": "mine",
        "gen_ai.response.model": "tiny",
        "gen_ai.request.n": 1,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.max_tokens": 12,
        "gen_ai.usage.prompt_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.completion_tokens": 12,
        "gen_ai.response.finish_reasons": ("length",),
        "http.response.status_code": 200,
        "http.route": "/v1/completions",
        "castserve.policy": "chain:3",
        "castserve.draft_tokens": drafting["num_draft_tokens"],
        "castserve.accepted_draft_tokens": drafting["num_accepted_draft_tokens"],
    }.items():
        assert attributes[name] == expected, name
    seconds = {name: attributes[f"gen_ai.latency.{name}"] for name in ("e2e", "time_in_queue")}
    first = attributes["gen_ai.latency.time_to_first_token"]
    assert first == pytest.approx(answer["metrics"]["time_to_first_token_ms"] / 1e3)
    assert 0 <= seconds["time_in_queue"] <= first <= seconds["e2e"]
    assert seconds["e2e"] <= (span.end_time - span.start_time) / 1e9 < 30
    assert not any("cat" in str(one) for one in attributes.values())


def test_without_a_parent_a_trace_begins(client, exporter) -> None:
    for headers in ({}, {"traceparent": "rubbish"}):
        client.post("/v1/completions", json=BODY | {"n": 2}, headers=headers)
    one, two = spans(client, exporter)
    assert one.parent is None
    assert two.parent is None
    assert one.context.trace_id != two.context.trace_id
    assert one.attributes["gen_ai.usage.completion_tokens"] == 24


def test_failures_are_marked_and_other_requests_have_no_span(client, exporter, engine) -> None:
    client.get("/v1/models")
    client.post("/v1/completions", json=BODY | {"max_tokens": 10**6})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._core.target, "launch", None)  # calling it raises
        assert client.post("/v1/completions", json=BODY).status_code == 500
    (span,) = spans(client, exporter)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "internal_error"


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    posted: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
def test_spans_reach_a_collector_at_the_latest_when_the_server_stops(engine, path) -> None:
    with collector() as (url, posted):
        with observed(engine, HttpConfig(otlp_endpoint=url + path)) as client:
            assert client.post("/v1/completions", json=BODY).status_code == 200
        ((posted_path, body),) = posted
    assert posted_path == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    names = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert names["service.name"] == "castserve"
    (span,) = resource.scope_spans[0].spans
    numbers = {one.key: one.value.int_value for one in span.attributes}
    assert numbers["gen_ai.usage.completion_tokens"] == 12


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry"]
)
def test_missing_packages_are_one_sentence(missing, monkeypatch, capsys) -> None:
    for name in [one for one in sys.modules if one.startswith(missing)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.main(["--otlp-endpoint", "http://127.0.0.1:4318"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "pip install 'castserve[otel]'" in message


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(ConfigError, match=r"--otlp-endpoint localhost:4318: a URL such as http"):
        check_endpoint("localhost:4318")
    check_endpoint(None)
    check_endpoint("http://localhost:4318")
