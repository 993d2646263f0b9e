"""`cast-bench latency`: planted slow-downs and wrong tokens are seen, and nothing else is."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from cast_bench.latency import batches, cli, judging
from cast_bench.latency.batches import BatchRunner, Turn
from cast_bench.latency.cli import main
from cast_bench.latency.figures import all_figures
from cast_bench.latency.iteration import Decoding, Difference, Iteration, Times
from cast_bench.latency.timeline import Timeline
from cast_bench.latency.verdict import passes, verdict
from cast_bench.workloads import loading
from cast_server.engine.core import EngineCore
from cast_server.errors import ConfigError

FLAGS = ["--model=tiny", "--dtype=float32", "--drafter=ngram", "--profile=guess", "--threads=1"]
FLAGS += ["--device=cpu", "--num-iters=2", "--output-len=10", "--batch-size=1,3"]
FLAGS += ["--policy=off,tree:4,cast", "--num-prompts=2", "--max-draft-rows=64"]
FLAGS += ["--kv-cache-tokens=2048"]


@pytest.fixture
def tiny(monkeypatch):
    """A tiny model in the place of whatever is asked for."""
    monkeypatch.setattr(cli, "resolve_model", lambda name: name)
    monkeypatch.setattr(
        cli,
        "load_model",
        lambda *_: (tiny_models.model_of("llama"), tiny_models.byte_level_tokenizer()),
    )
    monkeypatch.setattr(loading, "chat_ids", lambda tokenizer, text: tokenizer.encode(text)[:30])


@pytest.fixture
def simulated(tiny, monkeypatch):
    """A machine that takes a second a token, `slower` times as long for tree:4. It drifts from
    batch to batch and is noisy; rounds are the same each time."""
    clock = SimpleNamespace(now=0.0, slower=1.0, batch=0)
    noise = np.random.default_rng(0)
    step, run = EngineCore.step, BatchRunner.run

    def timed_step(core):
        news = step(core)
        tokens = sum(len(one.new_token_ids) for one in news)
        factor = clock.slower if clock.policy == "tree:4" else 1.0
        drift = 2.0 if clock.round % 2 else 1.0
        clock.now += max(tokens, 1) * factor * drift * np.exp(noise.normal(0, 0.01))
        return news

    def noted_run(runner, turn):
        clock.policy, clock.round = turn.policy, turn.round
        return run(runner, turn)

    monkeypatch.setattr(batches, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(EngineCore, "step", timed_step)
    monkeypatch.setattr(BatchRunner, "run", noted_run)
    return clock


STEADY = [*FLAGS, "--policy=off,tree:4", "--num-iters=7", "--batch-size=1", "--fail-under=1.0"]


def test_a_slow_down_of_five_percent_is_seen_and_fails_the_gate(simulated, capsys) -> None:
    simulated.slower = 1.05
    assert main(STEADY) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"tree:4 is 0\.9[4-6]x plain decoding at batch 1; outputs identical", last)


def test_without_one_the_gate_passes(simulated, capsys) -> None:
    assert main(STEADY) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "tree:4 is equal to plain decoding at batch 1; outputs identical"


def plant(monkeypatch, change):
    """`change(outputs)` is done to whatever tree:4 answers."""
    run = BatchRunner.run

    def wrong(runner, turn):
        iteration, outputs = run(runner, turn)
        if turn.policy == "tree:4" and turn.round > 0:
            change(outputs)
        return iteration, outputs

    monkeypatch.setattr(BatchRunner, "run", wrong)


def test_a_wrong_token_is_not_identical_and_fails_the_run(
    tiny, tmp_path, monkeypatch, capsys
) -> None:
    plant(monkeypatch, lambda outputs: outputs[0].__setitem__(3, outputs[0][3] ^ 1))
    file = tmp_path / "out.json"
    assert main([*FLAGS, f"--output-json={file}"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("outputs differ: 4 beyond rounding")
    assert re.search(r"- tree:4 at 1, round 1, prompt 0, token 3: \d+, not \d+.*: bug", out)
    cells = {
        (one["policy"], one["batch_size"]): one for one in json.loads(file.read_text())["cells"]
    }
    assert not cells["tree:4", 1]["token_identical"]
    assert (cells["tree:4", 3]["bugs"], cells["tree:4", 3]["outputs"]) == (2, 6)
    assert cells["cast", 1]["token_identical"]


def test_an_answer_that_ends_early_is_a_bug(tiny, monkeypatch, capsys) -> None:
    plant(monkeypatch, lambda outputs: outputs[0].pop())
    assert main([*FLAGS, "--num-iters=1", "--batch-size=1"]) == 1
    assert "token 9: None, not" in capsys.readouterr().out


def test_a_swap_within_rounding_is_a_near_tie_and_passes(tiny, monkeypatch, capsys) -> None:
    # As if the model's own second choice had come, within what bfloat16 may do.
    monkeypatch.setattr(judging, "TOLERANCE", {"float32": 0.25})
    monkeypatch.setattr(judging, "explain", lambda *_: SimpleNamespace(margin=0.2))
    plant(monkeypatch, lambda outputs: outputs[0].__setitem__(3, outputs[0][3] ^ 1))
    assert main([*FLAGS, "--num-iters=1", "--batch-size=1"]) == 0
    out = capsys.readouterr().out
    assert "margin 0.2000: near tie" in out
    assert out.splitlines()[-1].endswith("outputs differ: 1 at a near tie")


def test_sampled_tokens_are_the_same_too_and_differences_are_bugs(tiny, monkeypatch) -> None:
    flags = [*FLAGS, "--num-iters=1", "--temperature=0.8"]
    assert main(flags) == 0
    plant(monkeypatch, lambda outputs: outputs[0].__setitem__(3, outputs[0][3] ^ 1))
    assert main(flags) == 1


def test_the_json_has_the_keys_that_people_script_against(tiny, tmp_path) -> None:
    file = tmp_path / "out.json"
    assert main([*FLAGS, f"--output-json={file}"]) == 0
    document = json.loads(file.read_text())
    assert document["is_complete"]
    assert document["verdict"].startswith("cast is ")
    assert document["provenance"]["arguments"]["num_iters"] == 2
    assert [(one["batch_size"], one["policy"]) for one in document["cells"]] == [
        (size, policy) for size in (1, 3) for policy in ("off", "tree:4", "cast")
    ]
    for cell in document["cells"]:
        assert len(cell["latencies"]) == 2
        assert cell["avg_latency"] == pytest.approx(sum(cell["latencies"]) / 2)
        assert list(cell["percentiles"]) == ["10", "25", "50", "75", "90", "99"]
        assert cell["percentiles"]["50"] == pytest.approx(cell["avg_latency"])
        for name in ("ttft", "tpot", "itl", "e2el"):
            assert all(cell[f"{how}_{name}_ms"] > 0 for how in ("mean", "median", "p99"))
        assert sum(cell["step_shares"].values()) == pytest.approx(1)
        assert cell["token_identical"]
        assert cell["joules_per_token"] is None
        assert cell["times_off"]["low"] <= cell["times_off"]["median"] <= cell["times_off"]["high"]
    assert document["no_energy_because"] == (
        "NVML counts energy of NVIDIA's GPUs only, and this ran on cpu"
    )
    assert document["cells"][0]["times_off"]["median"] == 1.0
    assert document["cells"][0]["acceptance_length"] == 1.0


def test_acceptance_is_what_the_answers_took(tiny, tmp_path) -> None:
    file = tmp_path / "out.json"
    assert main([*FLAGS, "--save-detailed", f"--output-json={file}"]) == 0
    document = json.loads(file.read_text())
    for one in document["iterations"]:
        detail = one["detail"]
        assert [len(output) for output in detail["outputs"]] == [10] * one["batch_size"]
        counts = [[count for _, count in arrivals] for arrivals in detail["arrivals"]]
        assert [sum(some) for some in counts] == [10] * one["batch_size"]
        verifications = sum(len(some) - 1 for some in counts)  # the first token is the prompt's
        assert sum(one["decoding"]["histogram"]) == verifications
        assert one["decoding"]["full_tokens"] > 0
        assert one["times"]["ttft"] == [arrivals[0][0] for arrivals in detail["arrivals"]]
        assert one["latency"] >= max(one["times"]["e2el"])


def test_every_policy_has_the_same_prompts_and_rounds_go_on(tiny, tmp_path) -> None:
    file = tmp_path / "out.json"
    flags = [*FLAGS, "--dataset", "code", "maths", f"--output-json={file}"]
    assert main(flags) == 0
    prompts = {
        (one["round"], one["batch_size"], one["policy"]): one["prompts"]
        for one in json.loads(file.read_text())["iterations"]
    }
    assert all(prompts[1, 3, policy] == [0, 1, 2] for policy in ("off", "tree:4", "cast"))
    assert prompts[2, 3, "off"] == [3, 0, 1]


@pytest.fixture
def killed(tiny, tmp_path, monkeypatch):
    """The arguments of a run that did not survive the largest batch of its second round."""
    run = BatchRunner.run

    def kill(runner, turn):
        if turn.round == 2 and turn.batch_size == 3 and turn.policy == "cast":
            raise KeyboardInterrupt
        return run(runner, turn)

    flags = [*FLAGS, f"--output-json={tmp_path / 'out.json'}", f"--html={tmp_path / 'out.html'}"]
    flags += [f"--markdown={tmp_path / 'out.md'}"]
    with monkeypatch.context() as patch:
        patch.setattr(BatchRunner, "run", kill)
        with pytest.raises(KeyboardInterrupt):
            main(flags)
    return flags


def test_a_run_that_is_killed_leaves_a_report_and_goes_on(killed, tmp_path, monkeypatch) -> None:
    file = tmp_path / "out.json"
    before = json.loads(file.read_text())
    assert not before["is_complete"]
    assert len(before["iterations"]) == 3 * 3
    assert "(not all rounds have run yet)" in (tmp_path / "out.md").read_text()
    assert "(not all rounds have run yet)" in (tmp_path / "out.html").read_text()

    run, turns = BatchRunner.run, []

    def watched(runner, turn):
        turns.append((turn.round, turn.batch_size))
        return run(runner, turn)

    monkeypatch.setattr(BatchRunner, "run", watched)
    assert main([*killed, "--resume"]) == 0
    after = json.loads(file.read_text())
    assert set(turns) == {(0, 3), (2, 3)}  # one to warm up, and the one that was missing
    assert after["is_complete"]
    assert after["iterations"][:9] == before["iterations"]
    assert len(after["iterations"]) == 4 * 3
    assert after["earlier_starts"] == [before["provenance"]]
    assert "not all rounds" not in (tmp_path / "out.md").read_text()

    turns.clear()
    assert main([*killed, "--resume"]) == 0  # nothing is missing: only a report
    assert not turns
    assert json.loads(file.read_text()) == after


def test_another_run_does_not_go_on_with_a_file(killed, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"out\.json was measured with output_len 10, not 11"):
        main([*killed, "--resume", "--output-len=11"])
    (tmp_path / "out.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"out\.json is no file of cast-bench latency"):
        main([*killed, "--resume"])


def test_the_page_needs_nothing_from_elsewhere(tiny, tmp_path) -> None:
    page = tmp_path / "out.html"
    assert main([*FLAGS, f"--html={page}"]) == 0
    html = page.read_text()
    assert not re.search(r"https?:|//|src=|href=|url\(|@import|<script|<link", html)
    assert html.count("<svg") == 3
    for text in ("<strong>cast is ", "tree:4 at 3", "Times plain decoding", "git_dirty", "<td>yes"):
        assert text in html


def iteration(
    policy: str, round_number: int, latency: float, size: int = 1, **changes
) -> Iteration:
    times = Times(ttft=(0.1,), tpot=(0.1,), e2el=(latency,), itl=((0.1, 9),))
    record = Iteration(
        policy=policy,
        batch_size=size,
        round=round_number,
        latency=latency,
        num_tokens=10,
        prompts=(0,),
        times=times,
        decoding=Decoding(),
        energy=None,
    )
    return record.model_copy(update=changes)


def rounds(policy: str, factors, size: int = 1) -> list[Iteration]:
    """`off` and a policy that is as many times as fast, round by round, on a drifting machine."""
    drifts = [1.0 + 0.3 * (n % 3) for n in range(len(factors))]
    pairs = list(enumerate(zip(factors, drifts, strict=True), 1))
    mine = [iteration(policy, n, drift / factor, size) for n, (factor, drift) in pairs]
    return mine + [iteration("off", n, drift, size) for n, (_, drift) in pairs]


BUG = Difference(
    request=0, prompt=0, position=3, plain_token=1, token=2, margin=None, verdict="bug"
)


def test_the_verdict_is_one_sentence() -> None:
    some = rounds("cast", [2.0, 2.1, 2.2]) + rounds("cast", [1.2] * 3, 8)
    some += rounds("cast", [0.99, 1.01, 1.0], 32)
    assert verdict(some, ["off", "cast"]) == (
        "cast is 2.10x plain decoding at batch 1, 1.20x at 8, equal at 32; outputs identical"
    )
    assert passes(some, ["off", "cast"], 0.9)
    some[0] = some[0].model_copy(update={"differences": (BUG,)})
    assert verdict(some, ["off", "cast"]).endswith("; outputs differ: 1 beyond rounding")
    assert not passes(some, ["off", "cast"])


def test_what_is_not_sure_is_told_with_its_interval() -> None:
    told = verdict(rounds("tree:4", [0.8, 1.1, 1.3]), ["off", "tree:4"])
    assert told == (
        "tree:4 is 1.10x plain decoding (between 0.80 and 1.30) at batch 1; outputs identical"
    )


def test_the_gate_asks_for_certainty_and_for_cast_where_it_runs() -> None:
    noisy, slow = rounds("cast", [0.95, 0.98, 1.05]), rounds("cast", [0.95, 0.96, 0.97])
    assert passes(noisy, ["off", "cast"], 1.0)
    assert not passes(slow, ["off", "cast"], 1.0)
    eagle = [one for one in rounds("eagle2", [0.2] * 3) if one.policy != "off"]
    assert passes(noisy + eagle, ["off", "eagle2", "cast"], 1.0)
    assert not passes(rounds("eagle2", [0.2] * 3), ["off", "eagle2"], 1.0)


def test_a_drifting_machine_changes_no_ratio() -> None:
    found = all_figures(rounds("cast", [1.5] * 5), ["off", "cast"])[1]["times_off"]
    assert found == pytest.approx({"median": 1.5, "low": 1.5, "high": 1.5})


def test_ratios_are_paired_by_round_in_whatever_order_they_come() -> None:
    some = [iteration("off", n, latency) for n, latency in [(3, 2.0), (1, 1.0), (2, 4.0)]]
    some += [iteration("cast", n, latency) for n, latency in [(2, 2.0), (1, 3.0), (3, 1.5)]]
    found = all_figures(some, ["off", "cast"])[1]["times_off"]
    assert found["median"] == pytest.approx(2.0 / 1.5)


def apart(policy: str, number: int, first: float, last: float) -> Iteration:
    """Two requests that end at different times."""
    times = Times(ttft=(0.1, 0.1), tpot=(0.1, 0.1), e2el=(first, last), itl=((0.1, 9),))
    return iteration(policy, number, last, size=2, times=times)


def test_the_mean_request_and_the_last_one_are_told_apart() -> None:
    some = [apart("off", n, 1.0, 1.0) for n in (1, 2)]
    some += [apart("cast", n, 0.35, 1.25) for n in (1, 2)]
    found = all_figures(some, ["off", "cast"])[1]
    assert found["times_off"]["median"] == pytest.approx(1 / 0.8)
    assert found["batch_times_off"]["median"] == pytest.approx(1 / 1.25)
    assert verdict(some, ["off", "cast"]) == (
        "cast is 1.25x plain decoding at batch 2; the last request of a batch 0.80x at 2; "
        "outputs identical"
    )


def test_energy_is_told_for_each_token() -> None:
    some = [iteration("off", n, 1.0, energy=5.0 * n) for n in (1, 3)]
    assert all_figures(some, ["off"])[0]["joules_per_token"] == pytest.approx(1.0)


def test_tokens_of_one_step_share_its_wait() -> None:
    timeline = Timeline.of(2)
    for index, seconds, count in [(0, 1.0, 1), (1, 1.0, 1), (0, 2.0, 1), (0, 5.0, 3), (1, 9.0, 1)]:
        timeline.add(index, seconds, count)
    times = timeline.times()
    assert times.ttft == (1.0, 1.0)
    assert times.e2el == (5.0, 9.0)
    assert times.tpot == (1.0, 8.0)
    assert times.itl == ((1.0, 4), (8.0, 1))


@given(st.lists(st.tuples(st.floats(0.001, 10), st.integers(1, 6)), min_size=2, max_size=20))
def test_the_mean_gap_between_tokens_is_the_time_per_token(steps) -> None:
    timeline = Timeline.of(1)
    for at, (_, count) in zip(np.cumsum([gap for gap, _ in steps]), steps, strict=True):
        timeline.add(0, float(at), count)
    times = timeline.times()
    total = sum(count for _, count in times.itl)
    assert total == sum(count for _, count in steps) - 1
    assert sum(gap * count for gap, count in times.itl) / total == pytest.approx(times.tpot[0])


def test_prompts_of_a_round_follow_those_of_the_one_before() -> None:
    assert Turn("off", 4, 1).prompts(10) == (0, 1, 2, 3)
    assert Turn("off", 4, 3).prompts(10) == (8, 9, 0, 1)
    assert Turn("off", 2, 0).prompts(10) == (8, 9)


def test_an_answer_that_does_not_fit_is_refused(tiny) -> None:
    with pytest.raises(ConfigError, match=r"--output-len 500 and the longest prompt of \w+ \(\d+"):
        main([*FLAGS, "--output-len=500"])


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--policy=cast", "needs off"),
        ("--policy=off,fly", "'fly'"),
        ("--resume", "--resume needs --output-json"),
        ("--batch-size=0", "0 is less than 1"),
    ],
)
def test_what_does_not_go_together_is_refused(capsys, flag, sentence) -> None:
    with pytest.raises(SystemExit):
        main([flag])
    assert sentence in capsys.readouterr().err
