"""What an engine knows before its first request: costs of this machine, lessons of the last run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
from engine.driving import request, run

from cast_drafters.calibration import Kind
from cast_server import build
from cast_server.build import calibration_path, prepare, remember
from cast_server.config import EngineConfig
from cast_server.engine.request import SamplingParams
from cast_server.errors import ConfigError

CONFIG = EngineConfig(model="tiny", dtype="float32", drafter="ngram", profile="guess")
KIND = Kind.of(is_sampled=False, source=0, depth=1, rank=0)


@pytest.fixture
def make_core(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(build, "cache_root", lambda: tmp_path / "cache")
    return lambda: tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama))


def test_lessons_outlive_the_server(make_core) -> None:
    first = make_core()
    prompt = [1, 2, 3, 4] * 5
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    run(first, [request("a", prompt, params, "tree:6")])
    for _ in range(200):
        first.drafter.calibration.learn(KIND, -0.5, False)
    remember(first, CONFIG)
    second = make_core()
    untaught = second.drafter.calibration.log_prob(KIND, -0.5)
    prepare(second, CONFIG)
    taught = second.drafter.calibration.log_prob(KIND, -0.5)
    assert taught < untaught - 0.7


def test_counts_only_and_no_text(make_core) -> None:
    core = make_core()
    remember(core, CONFIG)
    assert set(json.loads(calibration_path(core, CONFIG).read_text())) == {"seen", "hits", "paths"}


def test_a_file_that_cannot_be_read_is_started_afresh(make_core, caplog) -> None:
    core = make_core()
    path = calibration_path(core, CONFIG)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    prepare(core, CONFIG)
    assert "Starting afresh" in caplog.text


def test_another_drafter_has_another_file(make_core) -> None:
    core = make_core()
    one = calibration_path(core, CONFIG)
    core.drafter.name = "another"
    assert calibration_path(core, CONFIG) != one


def test_a_profile_of_something_else_is_refused(make_core) -> None:
    file = Path(__file__).parents[2] / "docs" / "benchmarks" / "profile-cpu.json"
    with pytest.raises(ConfigError, match="profile"):
        prepare(make_core(), CONFIG.model_copy(update={"profile": str(file)}))


def test_a_place_that_cannot_be_written_is_no_failure(make_core, monkeypatch, caplog) -> None:
    core = make_core()
    monkeypatch.setattr(build, "cache_root", lambda: Path("/dev/null"))
    remember(core, CONFIG)
    assert "cannot be kept" in caplog.text
