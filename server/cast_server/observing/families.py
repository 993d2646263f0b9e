"""Metrics in Prometheus' terms, made anew for each scrape from plain counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from cast_server.engine.histogram import Histogram
from cast_server.engine.ledger import Figures

Labels = Mapping[str, str]


class Engine(Protocol):
    """What is observed."""

    @property
    def model_name(self) -> str: ...

    @property
    def tokenizer(self) -> Any: ...

    def figures(self) -> Figures: ...


def counter(
    name: str, text: str, samples: Iterable[tuple[Labels, float]], labels: Iterable[str]
) -> CounterMetricFamily:
    """`name` without the `_total` that it is exported with. labels: the names of all."""
    family = CounterMetricFamily(name, text, labels=list(labels))
    for values, value in samples:
        family.add_metric([values[label] for label in labels], value)
    return family


def gauge(
    name: str, text: str, samples: Iterable[tuple[Labels, float]], labels: Iterable[str]
) -> GaugeMetricFamily:
    """labels: the names of all."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for values, value in samples:
        family.add_metric([values[label] for label in labels], value)
    return family


def histogram(
    name: str, text: str, samples: Iterable[tuple[Labels, Histogram]], labels: Iterable[str]
) -> HistogramMetricFamily:
    """labels: the names of all."""
    family = HistogramMetricFamily(name, text, labels=list(labels))
    for values, one in samples:
        buckets, below = [], 0
        for bound, count in zip((*one.bounds, float("inf")), one.counts, strict=True):
            below += count
            buckets.append((floatToGoString(bound), below))
        family.add_metric([values[label] for label in labels], buckets, one.total)
    return family
