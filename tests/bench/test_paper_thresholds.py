"""The sweep over the published thresholds finds what it looks for, in a real engine."""

from __future__ import annotations

import json
import math

import pytest
import tiny_models

from cast_bench import paper_thresholds, policies
from cast_drafters.builders.cast_paper import Thresholds

FLAGS = ("--num-tokens", "6", "--num-prompts", "1", "--threads", "1", "--profile", "guess")


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    monkeypatch.setattr(paper_thresholds, "resolve_model", lambda name: name)
    tokenizer = tiny_models.byte_level_tokenizer()
    monkeypatch.setattr(
        paper_thresholds,
        "load_model",
        lambda *_: (tiny_models.randomised(tiny_models.llama), tokenizer),
    )
    monkeypatch.setattr(policies, "chat_ids", lambda tokenizer, text: tokenizer.encode(text)[:40])

    def run(*flags: str):
        file = tmp_path / "sweep.json"
        all_flags = (*FLAGS, "--model", "tiny", "--json", str(file), *flags)
        assert paper_thresholds.main(all_flags) == 0
        return json.loads(file.read_text())

    return run


def test_every_value_of_every_threshold_is_measured(sweep) -> None:
    found = sweep("--batch-size", "1", "2")
    assert [one["coordinate"] for one in found["sweeps"]] == ["reranking", "depth", "breadth"]
    for one in found["sweeps"]:
        assert len(one["times_off"]) == len(one["values"])
        assert all(x > 0 and math.isfinite(x) for x in one["times_off"])
        best = one["values"][one["times_off"].index(max(one["times_off"]))]
        assert found["best"][one["coordinate"]] == best


def test_planted_best_thresholds_are_found(sweep, monkeypatch) -> None:
    planted = Thresholds(breadth=6.0, depth=1.5, reranking=4.0)

    def speeds(bench, policy, prompts):
        if policy == "off":
            return [10.0, 10.0]
        asked = bench.core.planner._builder(policy)._thresholds
        off_by = [abs(getattr(asked, name) - getattr(planted, name)) for name in found_names]
        return [20.0 - sum(off_by)] * 2

    found_names = ("breadth", "depth", "reranking")
    monkeypatch.setattr(paper_thresholds, "_speeds", speeds)
    found = sweep("--rounds", "3")
    assert Thresholds(**found["best"]) == planted
