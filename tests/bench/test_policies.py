"""The comparison of policies: honest ratios, and outputs that are looked at."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tiny_models

from cast_bench import policies
from cast_bench.policies import Bench, Cell, main
from cast_bench.policy_report import best_fixed, worst_ratio
from cast_bench.ratios import geometric_mean, ratio


def rounds(speed: float, count: int = 12, noise: float = 0.02, seed: int = 0) -> list[float]:
    """Speeds of one side; the machine is slower in every third round, for both sides alike."""
    generator = np.random.default_rng(seed)
    stretch = [0.6 if i % 3 == 0 else 1.0 for i in range(count)]
    return [speed * s * math.exp(generator.normal(0, noise)) for s in stretch]


def test_a_planted_slow_down_is_detected() -> None:
    found = ratio(rounds(95.0, seed=1), rounds(100.0, seed=2))
    assert found.high < 1.0
    assert 0.9 < found.low < found.median < found.high


def test_equal_sides_are_equal_and_two_runs_overlap() -> None:
    one = ratio(rounds(100.0, seed=1), rounds(100.0, seed=2))
    two = ratio(rounds(100.0, seed=3), rounds(100.0, seed=4))
    assert one.low < 1.0 < one.high
    assert max(one.low, two.low) < min(one.high, two.high)


def test_rounds_are_compared_with_themselves_only() -> None:
    assert ratio([50.0, 200.0, 20.0], [25.0, 100.0, 10.0]).median == pytest.approx(2.0)


def test_geometric_mean_and_nothing() -> None:
    both = geometric_mean([([4.0], [1.0]), ([1.0], [1.0])])
    assert (both.low, both.median, both.high) == pytest.approx((2.0, 2.0, 2.0))
    assert math.isnan(geometric_mean([]).median)


def cell(policy: str, speed: float, batch_size: int = 1, dataset: str = "a") -> Cell:
    return Cell(dataset, batch_size, policy, 1, tokens=int(speed), seconds=1.0, steps=5)


def test_the_best_fixed_shape_and_the_worst_cell() -> None:
    cells = [cell("off", 100), cell("tree:4", 130), cell("chain:2", 120), cell("cast", 90)]
    cells += [cell("off", 100, dataset="b"), cell("tree:4", 110, dataset="b")]
    cells += [cell("chain:2", 150, dataset="b"), cell("cast", 160, dataset="b")]
    assert best_fixed(cells, 1) == "chain:2"
    assert worst_ratio(cells) == pytest.approx(0.9)


@pytest.fixture
def tiny(monkeypatch):
    """A tiny model in the place of whatever is asked for."""
    monkeypatch.setattr(policies, "resolve_model", lambda name: name)
    monkeypatch.setattr(
        policies,
        "load_model",
        lambda *_: (tiny_models.randomised(tiny_models.llama), tiny_models.byte_level_tokenizer()),
    )
    monkeypatch.setattr(policies, "chat_ids", lambda tokenizer, text: tokenizer.encode(text)[:40])


FLAGS = ["--model=tiny", "--dtype=float32", "--drafter=ngram", "--profile=guess", "--rounds=2"]
FLAGS += ["--num-tokens=12", "--batch-size=1,3", "--policy=off,tree:4,cast"]
FLAGS += ["--kv-cache-tokens=4096", "--threads=1"]


def test_a_run_from_end_to_end(tiny, tmp_path, capsys) -> None:
    assert main([*FLAGS, f"--json={tmp_path / 'out.json'}"]) == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["rounds"] == 2
    assert len(document["cells"]) == 2 * 2 * 3
    for one in document["cells"]:
        assert one["tokens"] > 0
        assert one["seconds"] > 0
        assert one["different"] == 0
        assert len(one["errors"]) == one["steps"]
    shown = capsys.readouterr().out
    assert "| 3 | cast |" in shown
    assert "outputs identical" in shown


def test_a_wrong_token_is_reported(tiny, tmp_path, monkeypatch, capsys) -> None:
    run = Bench.run

    def wrong(self, cell, prompts):
        outputs = run(self, cell, prompts)
        if cell.policy == "tree:4":
            outputs[0][3] += 1
        return outputs

    monkeypatch.setattr(Bench, "run", wrong)
    assert main(FLAGS) == 1
    assert "4 outputs differ from those of off" in capsys.readouterr().out


def test_a_run_that_is_killed_leaves_its_rounds(tiny, tmp_path, monkeypatch) -> None:
    run, calls = Bench.run, []

    def killed(self, cell, prompts):
        calls.append(cell)
        if cell.round == 2:
            raise KeyboardInterrupt
        return run(self, cell, prompts)

    monkeypatch.setattr(Bench, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        main([*FLAGS, f"--json={tmp_path / 'out.json'}"])
    assert json.loads((tmp_path / "out.json").read_text())["rounds"] == 1


def test_a_ratio_that_is_too_low_fails_the_run(tiny) -> None:
    assert main([*FLAGS, "--fail-under=1000"]) == 1


def test_off_is_needed(tiny, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--policy=cast"])
    assert "needs off" in capsys.readouterr().err
