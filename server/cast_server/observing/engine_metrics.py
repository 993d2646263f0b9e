"""What the engine counts, for Prometheus.

Where vLLM has a metric, it is exported under vLLM's name and label, so that dashboards and load
generators made for vLLM find it. Meanings are in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cast_server.engine.histogram import Histogram
from cast_server.engine.ledger import Figures, Ledger
from cast_server.observing.families import Engine, Labels, counter, gauge, histogram

_Counts = Callable[[Ledger], float]
_Histograms = Callable[[Ledger], Histogram]

_COUNTERS: Final[tuple[tuple[str, str, _Counts], ...]] = (
    (
        "prompt_tokens",
        "Prompt tokens of requests that got a first token.",
        lambda l: l.prompt_tokens,
    ),
    ("generation_tokens", "Tokens generated.", lambda l: l.generation_tokens),
    ("prefix_cache_queries", "Prompt tokens looked up in the cache.", lambda l: l.prompt_tokens),
    ("prefix_cache_hits", "Prompt tokens found in the cache.", lambda l: l.cached_tokens),
    ("spec_decode_num_drafts", "Drafts verified.", lambda l: l.drafts),
    ("spec_decode_num_draft_tokens", "Draft tokens verified.", lambda l: l.draft_tokens),
    ("spec_decode_num_accepted_tokens", "Draft tokens accepted.", lambda l: l.accepted_tokens),
)
_HISTOGRAMS: Final[tuple[tuple[str, str, _Histograms], ...]] = (
    (
        "time_to_first_token_seconds",
        "From a request's arrival to its first token.",
        lambda l: l.time_to_first_token,
    ),
    (
        "inter_token_latency_seconds",
        "Of each token but the first: its share of the time since the step before.",
        lambda l: l.inter_token,
    ),
    (
        "request_time_per_output_token_seconds",
        "A request's mean time of a token after the first.",
        lambda l: l.time_per_output_token,
    ),
    ("e2e_request_latency_seconds", "From a request's arrival to its end.", lambda l: l.total),
    ("request_queue_time_seconds", "From arrival to the first step.", lambda l: l.queue),
    (
        "request_inference_time_seconds",
        "From the first step to the last token.",
        lambda l: l.inference,
    ),
    (
        "request_prefill_time_seconds",
        "From the first step to the first token.",
        lambda l: l.prefill,
    ),
    (
        "request_decode_time_seconds",
        "From the first token to the last.",
        lambda l: l.decode,
    ),
    ("request_prompt_tokens", "A request's prompt tokens.", lambda l: l.prompt_length),
    ("request_generation_tokens", "A request's generated tokens.", lambda l: l.generation_length),
    (
        "iteration_tokens_total",
        "Tokens of prompts computed and tokens generated, a step.",
        lambda l: l.step_tokens,
    ),
)
_MODEL: Final = "model_name"


class EngineCollector(Collector):
    """Everything that vLLM has a name for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _labels(self) -> Labels:
        return {_MODEL: self._engine.model_name}

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would collect when this is registered

    def collect(self) -> Iterable[Metric]:
        figures = self._engine.figures()
        yield from self._counters(figures)
        yield from self._gauges(figures)
        for name, text, read in _HISTOGRAMS:
            samples = [(self._labels, read(figures.ledger))]
            yield histogram(f"vllm:{name}", text, samples, self._labels)

    def _counters(self, figures: Figures) -> Iterable[Metric]:
        ledger = figures.ledger
        for name, text, read in _COUNTERS:
            yield counter(f"vllm:{name}", text, [(self._labels, read(ledger))], self._labels)
        yield counter(
            "vllm:num_preemptions",
            "Times that a request gave its place in the KV cache up.",
            [(self._labels, figures.preemptions)],
            self._labels,
        )
        yield counter(
            "vllm:request_success",
            "Requests that ended, however they did.",
            ((self._with("finished_reason", r), n) for r, n in ledger.finished.items()),
            (_MODEL, "finished_reason"),
        )
        yield counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Drafts that were accepted up to this position and beyond.",
            ((self._with("position", str(i)), n) for i, n in enumerate(ledger.accepted_at)),
            (_MODEL, "position"),
        )

    def _gauges(self, figures: Figures) -> Iterable[Metric]:
        for name, text, value in (
            ("num_requests_running", "Requests that have a place in the batch.", figures.running),
            ("num_requests_waiting", "Requests that wait for one.", figures.waiting),
            ("kv_cache_usage_perc", "Share of the KV cache in use; 1 is all.", figures.kv_usage),
        ):
            yield gauge(f"vllm:{name}", text, [(self._labels, value)], self._labels)

    def _with(self, label: str, value: str) -> Labels:
        return {**self._labels, label: value}
