"""docs/metrics.md and the dashboard speak of the metrics that there are, and of all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tiny_models
from engine.driving import request, run
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cast_server.config import HttpConfig
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.request import SamplingParams
from cast_server.observing.exchange import Exchange, Generation
from cast_server.observing.observer import Observer

DOCS = Path(__file__).parents[3] / "docs"
ROW = re.compile(r"^\| `(\w[\w:]*)` \| (counter|gauge|histogram) \|(.*?)\| ", re.MULTILINE)
SAMPLE = re.compile(r"\b(?:vllm:|castserve_)\w+")


@pytest.fixture(scope="module")
def exported() -> list:
    """The families of a server that has seen a bit of everything."""
    with tiny_models.one_thread():
        core = tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama, seed=2))
        params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
        asked = request("a", [7, 8, 9, 10] * 5, params, "tree:6")
        last = run(core, [asked])["a"].last
        assert last.speculation.num_accepted_draft_tokens > 0
    observer = Observer(AsyncEngine(core, "tiny"), HttpConfig(), lambda: {"queued": 1})
    unfinished = Generation(asked, type(last)(request_id="a"))
    observer.ended(Exchange("GET", "/", error="some_code", generations=[unfinished]))
    text = generate_latest(observer.registry).decode()
    return list(text_string_to_metric_families(text))


def test_the_tables_are_complete_and_true(exported) -> None:
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall((DOCS / "metrics.md").read_text())
    }
    found = {
        one.name + "_total" * (one.type == "counter"): (
            one.type,
            {label for sample in one.samples for label in sample.labels} - {"le"},
        )
        for one in exported
    }
    assert documented == found


def test_the_dashboard_asks_for_what_there_is(exported) -> None:
    names = {sample.name for family in exported for sample in family.samples}
    dashboard = json.loads((DOCS / "dashboards" / "castserve.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert len(asked) > 20
    for query in asked:
        metrics = SAMPLE.findall(query)
        assert metrics, query
        assert set(metrics) <= names, query
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
