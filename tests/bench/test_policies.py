"""The comparison of policies: honest ratios, and outputs that are looked at."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models

from cast_bench import policies
from cast_bench.policies import Bench, main, num_requests
from cast_bench.policy_cells import Cell, Difference
from cast_bench.policy_report import best_fixed, print_report, worst_ratio
from cast_bench.ratios import geometric_mean, ratio
from cast_server.engine.meter import Meter, StepRecord
from cast_server.engine.request import RequestOutput


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
FLAGS += ["--kv-cache-tokens=4096", "--threads=1", "--num-prompts=2"]


def test_a_run_from_end_to_end(tiny, tmp_path, capsys) -> None:
    assert main([*FLAGS, f"--json={tmp_path / 'out.json'}"]) == 0
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["rounds"] == 2
    assert len(document["cells"]) == 2 * 2 * 3
    for one in document["cells"]:
        assert one["tokens"] > 0
        assert one["seconds"] > 0
        assert one["whole_seconds"] > one["decode_seconds"] >= one["seconds"]
        assert one["whole_tokens"] == 12 * num_requests(one["batch_size"], 2)
        assert one["different"] == 0
        assert len(one["errors"]) == one["steps"]
    shown = capsys.readouterr().out
    assert "| 3 | cast |" in shown
    assert "outputs identical" in shown


def test_a_wrong_token_is_reported(tiny, tmp_path, monkeypatch, capsys) -> None:
    run = Bench.run

    def wrong(self, cell, prompts, num_tokens):
        outputs = run(self, cell, prompts, num_tokens)
        if cell.policy == "tree:4":
            outputs[0][3] += 1
        return outputs

    monkeypatch.setattr(Bench, "run", wrong)
    assert main(FLAGS) == 1
    assert "4 outputs differ from those of off" in capsys.readouterr().out


@pytest.fixture
def killed(tiny, tmp_path, monkeypatch):
    """The arguments of a run that did not survive its second round."""
    run = Bench.run

    def kill(self, cell, prompts, num_tokens):
        if cell.round == 2 and cell.batch_size == 3:
            raise KeyboardInterrupt
        return run(self, cell, prompts, num_tokens)

    flags = [*FLAGS, f"--json={tmp_path / 'out.json'}"]
    with monkeypatch.context() as patch:
        patch.setattr(Bench, "run", kill)
        with pytest.raises(KeyboardInterrupt):
            main(flags)
    return flags


def test_a_run_that_is_killed_leaves_its_rounds_and_goes_on(killed, tmp_path, monkeypatch) -> None:
    file = tmp_path / "out.json"
    before = json.loads(file.read_text())
    assert before["rounds"] == 1
    run, rounds_run = Bench.run, []

    def watched(self, cell, prompts, num_tokens):
        rounds_run.append(cell.round)
        return run(self, cell, prompts, num_tokens)

    monkeypatch.setattr(Bench, "run", watched)
    assert main([*killed, "--resume"]) == 0
    after = json.loads(file.read_text())
    assert set(rounds_run) == {0, 2}  # one to warm up, and the one that was missing
    assert after["rounds"] == 2
    assert after["cells"][: len(before["cells"])] == before["cells"]
    assert len(after["cells"]) == 2 * len(before["cells"])
    assert after["earlier_starts"] == [before["provenance"]]

    rounds_run.clear()
    assert main([*killed, "--resume", "--by-set"]) == 0  # nothing is missing: only a report
    assert not rounds_run
    assert json.loads(file.read_text()) == after


def test_other_arguments_do_not_go_on_with_a_file(killed) -> None:
    with pytest.raises(SystemExit, match=r"out\.json was measured with num_tokens 12, not 13"):
        main([*killed, "--resume", "--num-tokens=13"])


def test_resume_without_anything_to_go_on_with(tiny, tmp_path) -> None:
    flags = [*FLAGS, "--rounds=1", "--batch-size=1", "--policy=off"]
    assert main([*flags, "--resume", f"--json={tmp_path / 'new.json'}"]) == 0
    assert json.loads((tmp_path / "new.json").read_text())["earlier_starts"] == []


def test_every_prompt_has_its_turn_and_every_batch_is_filled_twice() -> None:
    assert num_requests(batch_size=1, num_prompts=20) == 20
    assert num_requests(batch_size=8, num_prompts=20) == 24
    assert num_requests(batch_size=32, num_prompts=20) == 64


class FakeCore:
    """Request n (from 1) takes n steps of its one token each; the first step reads prompts."""

    def __init__(self, clock) -> None:
        record = StepRecord(1, 0, 0, 0, 1, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0, 1)
        self.planner = SimpleNamespace(meter=Meter())
        self._clock, self._record, self._left = clock, record, {}

    def add(self, request) -> None:
        self._left[request.id] = int(request.id)

    def step(self) -> list[RequestOutput]:
        self._clock.now += 1.0
        if self._clock.now > 1.0:
            self.planner.meter.add(self._record)
        outputs = []
        for name in list(self._left):
            self._left[name] -= 1
            reason = None if self._left[name] else "length"
            outputs.append(RequestOutput(request_id=name, new_token_ids=(7,), finish_reason=reason))
            if reason:
                del self._left[name]
        return outputs


def test_prompts_do_not_count_and_the_tail_is_apart(monkeypatch) -> None:
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(policies, "time", clock)
    bench = Bench(FakeCore(clock), SimpleNamespace(temperature=0.0, seed=0))
    found = Cell("a", 2, "off", 1)
    outputs = bench.run(found, [[1]], num_tokens=4)
    assert [len(one) for one in outputs] == [1, 2, 3, 4]
    # Requests 1 and 3 after each other, beside them 2 and 4; in the last 2 of 6 steps 4 is alone.
    assert (found.steps, found.tokens, found.seconds) == (3, 6, 3.0)
    assert (found.decode_tokens, found.decode_seconds) == (8, 5.0)
    assert (found.whole_tokens, found.whole_seconds) == (10, 6.0)
    assert found.busy_speed == (10 - 2) / (6.0 - 2.0)


def test_where_outputs_part() -> None:
    one = cell("tree:4", 100)
    one.compare([[1, 2, 3], [1, 9], [1], [4]], [[1, 2, 3], [1, 2], [1, 2], [4]], num_prompts=2)
    assert one.different == 2
    assert one.differences == [Difference(1, 1, 1, 2, 9), Difference(2, 0, 1, 2, None)]
    assert "prompt 1, token 1: 9, not 2" in print_report([cell("off", 100), one], ["off", "tree:4"])


def test_the_tail_shows_in_the_whole_time() -> None:
    cells = [cell("off", 100), cell("cast", 200)]
    for one in cells:
        one.whole_tokens, one.whole_seconds = 100, 1.0
        one.decode_tokens, one.decode_seconds = one.tokens, one.seconds
    row = print_report(cells, ["off", "cast"]).splitlines()[3]
    assert row.startswith("| 1 | cast | 200.0 | 2.00 [2.00, 2.00] | 1.00 [1.00, 1.00] |")


def test_a_grid_is_searched_and_any_policy_can_be_the_base(tiny, tmp_path) -> None:
    flags = [*FLAGS, "--rounds=1", "--batch-size=2", "--policy=off", "--grid=chain:2,tree:4"]
    flags += ["--against=chain:2", "--by-set", "--warmup=4"]
    file = tmp_path / "out.json"
    assert main([*flags, f"--json={file}", f"--markdown={tmp_path / 'table.md'}"]) == 0
    table = (tmp_path / "table.md").read_text()
    assert "| times off | times chain:2 |" in table
    assert "\nbuilt-in:\n" in table
    best = json.loads(file.read_text())["best_fixed"]["2"]
    assert best in ("chain:2", "tree:4")
    assert table.count(f"{best} (best fixed)") == 2
    assert table.splitlines()[-1].startswith("chain:2 is ")


def test_a_cell_in_which_nothing_was_counted_does_not_pass(tiny) -> None:
    # One token an answer: the step that reads the prompt chooses it, so that no step only decodes.
    flags = [*FLAGS, "--rounds=1", "--batch-size=1", "--policy=off,tree:4", "--num-tokens=1"]
    assert main([*flags, "--fail-under=0.01"]) == 1


def test_a_ratio_that_is_too_low_fails_the_run(tiny) -> None:
    assert main([*FLAGS, "--fail-under=1000"]) == 1


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--policy=cast", "needs off"),
        ("--against=tree:9", "--against tree:9: not among"),
        ("--resume", "--resume needs --json"),
    ],
)
def test_what_does_not_go_together_is_refused(capsys, flags, sentence) -> None:
    with pytest.raises(SystemExit):
        main([flags])
    assert sentence in capsys.readouterr().err
