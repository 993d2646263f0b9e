"""Replayed drafts are the recorded ones, and policies do with a cost what they should."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plain_head
import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_bench import cli as bench_cli
from cast_bench import policies
from cast_bench.kernels.shapes import MODELS
from cast_bench.simulate import cli
from cast_bench.simulate.engine import Cell, Simulation
from cast_bench.simulate.hardware import Clock, Hardware, Host, Roofline, hardware
from cast_bench.simulate.recorder import Reach
from cast_bench.simulate.recording import WatchedCost, record
from cast_bench.simulate.replay import Load, TraceDrafter
from cast_bench.simulate.trace import NODE, Recorded, Script, Trace
from cast_bench.simulate.validation import Measured, Pair, biases, median_error, validate
from cast_drafters.base import DraftContext, DraftLimits, LevelGate
from cast_drafters.calibration import Calibration
from cast_drafters.eagle.checkpoint import write_head
from cast_drafters.tree import tree_from_arrays
from cast_profiler.cost import CostCurve
from cast_profiler.datasheets import DATA_SHEETS
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.errors import ConfigError

ROOT = Path(__file__).parents[2]
NUM_TOKENS, LEVELS, WIDTH = 32, 8, 4
SHARES = (0.6, 0.2, 0.1, 0.04)  # how often each child is right, and what the drafter says of it
ELSE = 1000  # tokens from here on are nobody's


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@dataclass(frozen=True)
class Line:
    """A pass takes `base` and `slope` for each row, a level of the drafter `draft`."""

    base: float = 1e-2
    slope: float = 0.0
    draft: float = 0.0

    def verify_seconds(self, rows, keys, sequences=1):
        return self.base + self.slope * rows

    def draft_seconds(self, rows, keys, sequences=1):
        return self.draft


def trie(future, chance, is_free=False):
    """All paths whose probability is not tiny, four children a node; the right one is drawn."""
    rows, queue = [], [(-1, 0, 0.0, True)]
    while queue:
        parent, depth, above, is_right = queue.pop(0)
        drawn = chance.choices(range(5), (*SHARES, 0.06))[0]
        for rank, share in enumerate(SHARES):
            log_prob = above + float(np.log(share))
            is_next = is_right and rank == drawn and depth < len(future)
            token = future[depth] if is_next else ELSE + rank
            goes_on = log_prob > np.log(0.03) and depth + 1 < LEVELS
            level = depth + 1 if goes_on and not is_free else -1
            rows.append((token, parent, depth + 1, rank, 0, level, is_free, is_next, 0, log_prob))
            if goes_on:
                queue.append((len(rows) - 1, depth + 1, log_prob, is_next))
    return np.array(rows, NODE)


def made_up(num_scripts=4, is_free=False) -> Trace:
    chance = random.Random(0)
    scripts = []
    for _ in range(num_scripts):
        tokens = [chance.randrange(ELSE) for _ in range(NUM_TOKENS)]
        tries = [trie(tokens[p:], chance, is_free) for p in range(NUM_TOKENS)]
        scripts.append(Script("made-up", 100, tokens, {WIDTH: tries}))
    host = {"sequences": [1, 8], "drafting": [1e-5, 1e-5], "rest": [1e-5, 1e-5]}
    told = (host, {"model": "tiny"})
    return Trace(
        Recorded("tiny", "made-up", (WIDTH,), LEVELS, 128, not is_free, True, *told), scripts
    )


def simulated(trace, cost, policy, batch_size=1, num_tokens=NUM_TOKENS, warmup=0) -> Cell:
    hardware = Hardware("a line", cost, is_computed=True)
    simulation = Simulation(trace, hardware, Host.recorded(trace.recorded.host, 1.0), 2048)
    cell = Cell(trace.datasets[0], policy, batch_size, None)
    simulation.run(cell, num_tokens, warmup)
    return cell


# Recording


def draft_directory(drafter, model, directory):
    """A head of random numbers; a draft model that is the target, a little off."""
    if drafter == "eagle":
        config = plain_head.config(
            vocab_size=tiny_models.VOCAB_SIZE,
            target_hidden_size=tiny_models.SIZES["hidden_size"],
            draft_vocab_size=200,
            layer_ids=(0, 1, 1),
            max_position_embeddings=64,
        )
        write_head(directory, config, plain_head.weights(config))
    else:
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
        model.save_pretrained(directory)
    return directory


def make_core(drafter, tmp_path, **changes):
    options = {"drafter": drafter, "kv_cache_tokens": 8192, "max_draft_rows": 512} | changes
    if drafter != "ngram":
        head = tmp_path / drafter
        if not head.exists():
            draft_directory(drafter, tiny_models.model_of("llama"), head)
        options |= {"head": str(head)}
    if drafter == "eagle":
        options |= {"draft_sources": "text"}
    return tiny_models.tiny_core(tiny_models.model_of("llama"), **options)


def prompts(count=3):
    chance = random.Random(3)
    some = [[chance.randrange(tiny_models.VOCAB_SIZE) for _ in range(5)] for _ in range(count)]
    return [ids * 3 for ids in some]


def recorded(drafter, tmp_path, num_tokens=24) -> Trace:
    core = make_core(drafter, tmp_path, max_num_seqs=2)
    told = {"model": "tiny"}
    *_, trace = record(core, {"set": prompts()}, num_tokens, Reach((1, 4, 10)), told, 2, (1,))
    return trace


@pytest.mark.parametrize("drafter", ["ngram", "eagle", "draft-model"])
def test_a_replayed_policy_accepts_what_it_did(drafter, tmp_path, monkeypatch) -> None:
    """Fixed shapes, in the real engine and replayed: the same drafts, the same acceptances."""
    monkeypatch.setattr(Calibration, "learn", lambda *_: None)
    monkeypatch.setattr(Calibration, "learn_paths", lambda *_: None)
    trace = recorded(drafter, tmp_path)
    assert trace.recorded.has_passes == (drafter != "ngram")
    some_are_right = 0
    for policy in ("chain:4", "tree:8", "tree:12x1", "eagle2"):
        core = make_core(drafter, tmp_path)
        real, drafted = {}, 0
        for number, (ids, script) in enumerate(zip(prompts(), trace.scripts, strict=True)):
            params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
            core.add(Request(f"{number}", tuple(ids), params, 0, SpeculationParams(policy)))
            news = []
            while core.has_work:
                news += core.step()
            assert [token for one in news for token in one.new_token_ids] == script.token_ids
            did = news[-1].speculation
            drafted += did.num_draft_tokens
            for depth, steps in enumerate(did.histogram):
                real[depth] = real.get(depth, 0) + steps
        cell = simulated(trace, Line(), policy, num_tokens=24)
        assert cell.histogram == {depth: steps for depth, steps in real.items() if steps}
        assert cell.draft_tokens == drafted
        some_are_right += cell.accepted
    assert some_are_right > 0


def test_what_is_accepted_is_marked(tmp_path) -> None:
    trace = recorded("ngram", tmp_path)
    marked = 0
    for script in trace.scripts:
        for position, nodes in enumerate(script.tries[10]):
            for node in nodes[nodes["is_accepted"]]:
                assert node["token"] == script.token_ids[position + node["depth"] - 1]
                assert node["parent"] < 0 or nodes["is_accepted"][node["parent"]]
                marked += 1
    assert marked


def test_a_trace_comes_back_from_its_file(tmp_path) -> None:
    trace = made_up()
    trace.save(tmp_path / "trace.npz")
    again = Trace.load(tmp_path / "trace.npz")
    assert again.recorded == trace.recorded
    for one, other in zip(trace.scripts, again.scripts, strict=True):
        assert (one.dataset, one.num_prompt) == (other.dataset, other.num_prompt)
        assert one.token_ids == other.token_ids
        pairs = zip(one.tries[WIDTH], other.tries[WIDTH], strict=True)
        assert all((a == b).all() for a, b in pairs)


def test_another_file_is_refused_in_a_sentence(tmp_path) -> None:
    (tmp_path / "wrong.npz").write_text("nothing of the kind")
    with pytest.raises(ConfigError, match=r"wrong\.npz is no castserve draft trace"):
        Trace.load(tmp_path / "wrong.npz")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Trace.load(tmp_path / "missing.npz")


def test_the_host_takes_its_mean_in_steps_of_the_whole_batch() -> None:
    cost = WatchedCost(Line(), 4)
    before = cost.host_seconds(4), cost.rest_seconds(4)
    assert (cost.mean_drafting(), cost.mean_rest()) == before  # nothing seen yet
    for sequences, seconds in ((4, 1e-3), (4, 9e-3), (2, 7.0)):
        cost.saw_host(sequences, seconds)
        cost.saw_rest(sequences, 2 * seconds)
    assert cost.mean_drafting() == pytest.approx(5e-3)
    assert cost.mean_rest() == pytest.approx(1e-2)
    assert cost.host_seconds(4) != before[0]  # and it still learns


# Replaying


class AnyGate(LevelGate):
    def __init__(self, seed) -> None:
        self._chance = random.Random(seed)

    def widths(self, level, frontiers):
        return [self._chance.randint(0, len(one.log_probs)) for one in frontiers]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, NUM_TOKENS - 2), st.integers(1, 40), st.integers(1, 4), st.integers(0, 9))
def test_any_gate_gets_a_tree_within_its_limits(position, size, width, seed) -> None:
    trace = TRACES[seed % 2]
    drafter = TraceDrafter(trace, Clock(), Line(), Host.recorded(trace.recorded.host, 1.0))
    drafter.follow("a", 0, num_seen=0)
    drafter.load = Load(100, 1)
    limits = DraftLimits(size, 5, width, 6, width, least=-4.0)
    context = DraftContext("a", [0] * (position + 1), limits, 0.0, 0, num_output=position + 1)
    [tree] = drafter.propose([context], AnyGate(seed))
    tree_from_arrays(tree.token_ids_T, tree.parents_T, tree.log_probs_T)
    assert len(tree) <= size
    assert tree.depths_T.max(initial=0) <= 5
    assert (tree.log_probs_T >= -4.0).all()
    assert np.bincount(tree.parents_T + 1, minlength=1).max(initial=0) <= width


TRACES = (made_up(1), made_up(1, is_free=True))


def test_more_than_was_recorded_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"8 levels deep, but a policy asks for 9, 1 and 9"):
        simulated(made_up(1), Line(), "chain:9")
    with pytest.raises(ConfigError, match=r"up to 128 nodes, .* asks for 129, 4 and 8"):
        simulated(made_up(1), Line(), "tree:129")


# Policies against costs


def test_where_rows_cost_nothing_the_largest_tree_wins() -> None:
    trace = made_up()
    speeds = [simulated(trace, Line(), f"tree:{size}").speed for size in (1, 2, 4, 8, 32)]
    assert speeds == sorted(speeds)
    assert speeds[-1] > 1.3 * speeds[0]
    plain = simulated(trace, Line(), "off")
    assert plain.draft_tokens == 0
    assert plain.speed < speeds[0]
    assert simulated(trace, Line(), "cast", warmup=NUM_TOKENS).speed > 0.9 * speeds[-1]


def test_where_every_row_costs_a_step_cast_is_plain_decoding() -> None:
    steep = Line(base=0.0, slope=1e-2, draft=1e-2)
    trace = made_up()
    plain, cast, tree = (
        simulated(trace, steep, policy, batch_size=4, warmup=NUM_TOKENS)
        for policy in ("off", "cast", "tree:8")
    )
    assert cast.speed == pytest.approx(plain.speed, rel=0.03)
    assert tree.speed < 0.5 * plain.speed


def test_plain_decoding_takes_what_its_steps_do() -> None:
    cell = simulated(made_up(), Line(base=0.25), "off", batch_size=2)
    assert cell.tokens == 2 * cell.steps
    assert cell.seconds == pytest.approx(cell.steps * (0.25 + 1e-5))


def test_levels_and_the_host_take_their_time() -> None:
    cell = simulated(made_up(), Line(draft=0.125), "chain:3")
    drafting = cell.seconds - cell.steps * (1e-2 + 1e-5)
    assert cell.levels > 0
    assert drafting == pytest.approx(cell.levels * 0.125, rel=0.01)


def test_it_comes_out_the_same_every_time() -> None:
    cost = Line(slope=1e-4, draft=1e-3)
    one, two = (simulated(made_up(), cost, "cast", 4, warmup=NUM_TOKENS) for _ in range(2))
    assert one == two
    assert one.draft_tokens > 0


def test_512_sequences_at_a_time() -> None:
    begin = time.process_time()
    cell = simulated(made_up(), Line(slope=1e-6, draft=1e-3), "cast", 512, num_tokens=8)
    assert cell.tokens > 512 * 4
    assert time.process_time() - begin < 30


# Hardware


def test_a_floor_by_hand() -> None:
    """One row of Llama 3.1 8B on an H100: 7.5e9 weights of two bytes, at 3.35e12 bytes a second;
    a key and a value of 32 layers, 8 heads of 128."""
    shape = MODELS["llama-3.1-8b"]
    one, two = (hardware(f"roofline:{name}", "8B").cost for name in ("H100", "h100x2"))
    seconds = one.verify_seconds(1, 1)
    assert seconds == pytest.approx(7.5e9 * 2 / 3.35e12, rel=0.01)
    assert two.verify_seconds(1, 1) == pytest.approx(seconds / 2)
    keys = 131072
    bytes_of_keys = keys * 32 * 2 * 8 * 128 * 2
    more = one.verify_seconds(1, keys) - seconds
    assert more == pytest.approx(bytes_of_keys / 3.35e12, rel=0.01)
    assert one.draft_seconds(1, 1) < seconds / 10
    many = 4096
    at_least = 2 * 7.5e9 * many / 989.4e12
    assert one.verify_seconds(many, many, many) >= 0.99 * at_least
    assert Roofline(shape, DATA_SHEETS[-1]).verify_seconds(1, 1) < seconds


def test_bytes_held_by_hand() -> None:
    """Llama 3.1 8B has 8.03e9 weights of two bytes, and 128 KiB of keys and values a token."""
    device = hardware("roofline:H100", "8B")
    weights = device.bytes_held(0)
    assert weights == pytest.approx(2 * 8.03e9, rel=0.001)
    assert device.bytes_held(1000) - weights == 1000 * 128 * 1024
    assert Hardware("a line", Line(), is_computed=False).bytes_held(0) is None


def test_hardware_that_nobody_knows(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"roofline:Z80: choose a file or roofline:A100"):
        hardware("roofline:Z80", "8B")
    with pytest.raises(ConfigError, match="--model-shape 9B: choose one of smollm2-135m"):
        hardware("roofline:H100", "9B")
    with pytest.raises(ConfigError, match="Or name a device: roofline:A100"):
        hardware(str(tmp_path / "missing.json"), "8B")


def test_the_host_between_what_was_recorded() -> None:
    host = Host(CostCurve((1, 4), (1.0, 4.0)), CostCurve((1,), (2.0,)), scale=0.5)
    assert host.drafting_seconds(2) == pytest.approx(1.0)
    assert host.drafting_seconds(0) == 0.0
    assert host.rest_seconds(3) == pytest.approx(3.0)


# Simulated beside measured


def test_errors_are_of_the_measured_speed() -> None:
    speeds = ((100.0, 110.0), (100.0, 95.0), (50.0, 100.0), (0.0, 7.0))
    pairs = [Pair("set", 1, "off", *one) for one in speeds]
    assert [one.error for one in pairs[:3]] == pytest.approx([0.1, -0.05, 1.0])
    assert median_error(pairs) == pytest.approx(0.1)  # what was not measured does not count
    assert np.isnan(median_error(pairs[3:]))
    assert biases(pairs) == {"off": pytest.approx(0.1)}


def error_against(trace, cost, policies=("off", "chain:4", "cast")) -> float:
    """What validation says of a trace and a cost where `Line(slope=1e-3, draft=2e-3)` is true."""
    truth = Line(slope=1e-3, draft=2e-3)
    speeds = {
        ("made-up", size, one): simulated(made_up(), truth, one, size, warmup=8).speed
        for size in (1, 4)
        for one in policies
    }
    host = Host.recorded(trace.recorded.host, 1.0)
    simulation = Simulation(trace, Hardware("a line", cost, is_computed=False), host, 2048)
    return median_error(validate(simulation, Measured(speeds, "tiny", NUM_TOKENS, 8, 2048)))


def test_the_right_cost_and_acceptance_agree() -> None:
    assert error_against(made_up(), Line(slope=1e-3, draft=2e-3)) < 1e-9


@pytest.mark.parametrize("wrong", [Line(1.2e-2, 1.2e-3, 2.4e-3), Line(8e-3, 8e-4, 1.6e-3)])
def test_a_wrong_cost_does_not_agree(wrong) -> None:
    assert error_against(made_up(), wrong) > 0.1


def test_wrong_acceptance_does_not_agree() -> None:
    trace = made_up()
    for script in trace.scripts:
        for nodes in script.tries[WIDTH]:
            nodes["token"] += ELSE
    right = Line(slope=1e-3, draft=2e-3)
    assert error_against(trace, right, ("chain:4", "tree:8")) > 0.1
    assert error_against(trace, right, ("off",)) < 1e-9


# The command


@pytest.fixture
def trace_file(tmp_path):
    made_up().save(tmp_path / "trace.npz")
    return tmp_path / "trace.npz"


def test_a_run_from_end_to_end(trace_file, tmp_path, capsys) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    flags = ["run", f"--trace={trace_file}", "--profile=roofline:H100", "--model-shape=70B"]
    flags += ["--policy=chain:4,cast", "--batch-size=1,8", "--context=prompt,131072"]
    assert cli.main([*flags, f"--json={out}", f"--html={page}", "--num-tokens=12"]) == 0
    shown, document = capsys.readouterr().out, json.loads(out.read_text())
    for text in (shown, page.read_text(), document["hardware"]["note"]):
        assert "COMPUTED, NOT MEASURED" in text
    assert "# llama-3.1-70b on H100 SXM, roofline" in shown
    assert "## With 131,072 tokens of context" in shown
    assert "| batch | GB held | off, tokens/s | chain:4 | cast |" in shown
    assert "| 8 | 485 |" in shown
    assert len(document["cells"]) == 2 * 2 * 3
    assert all(one["speed"] > 0 for one in document["cells"])
    assert page.read_text().count("<svg") == 2


def test_a_measured_profile_is_called_one(trace_file, capsys) -> None:
    profile = ROOT / "docs/benchmarks/profile-cpu.json"
    flags = ["run", f"--trace={trace_file}", f"--profile={profile}", "--policy=off,tree:4"]
    assert cli.main([*flags, "--batch-size=2", "--num-tokens=8"]) == 0
    shown = capsys.readouterr().out
    assert "those of a measured profile" in shown
    assert "COMPUTED" not in shown


def test_a_wrong_policy_is_one_sentence(trace_file, capsys) -> None:
    flags = ["run", f"--trace={trace_file}", "--profile=roofline:H100", "--policy=fly"]
    assert bench_cli.main(["simulate", *flags]) == 2
    assert "cast-bench simulate: Draft policy 'fly' is not possible" in capsys.readouterr().err


@pytest.fixture
def tiny(monkeypatch):
    """A tiny model in the place of whatever is asked for."""
    for module in (cli, policies):
        monkeypatch.setattr(module, "resolve_model", lambda name: name)
        monkeypatch.setattr(
            module,
            "load_model",
            lambda *_: (tiny_models.model_of("llama"), tiny_models.byte_level_tokenizer()),
        )
    monkeypatch.setattr(policies, "chat_ids", lambda tokenizer, text: tokenizer.encode(text)[:40])


def test_recorded_measured_and_held_against_each_other(tiny, tmp_path, capsys) -> None:
    """The whole way on a tiny model; how near figures come is for a quiet machine to say."""
    trace, measured, out = tmp_path / "t.npz", tmp_path / "m.json", tmp_path / "v.json"
    common = ["--model=tiny", "--dtype=float32", "--drafter=ngram", "--profile=guess"]
    common += ["--num-prompts=2", "--num-tokens=12", "--threads=1"]
    record_flags = ["--batch-size=2", "--warm-batches=1,2", f"--out={trace}"]
    assert cli.main(["record", *common, *record_flags]) == 0
    both = Trace.load(trace)
    trace_of_one = dataclasses.replace(both, scripts=both.scripts[:1])
    trace_of_one.save(trace)  # as if it had been killed
    assert cli.main(["record", *common, *record_flags, "--resume"]) == 0
    again = [one.token_ids for one in Trace.load(trace).scripts]
    assert again == [one.token_ids for one in both.scripts]
    with pytest.raises(ConfigError, match="was recorded with num_tokens 12, not 13"):
        cli.main(["record", *common, *record_flags, "--resume", "--num-tokens=13"])
    flags = ["--rounds=1", "--batch-size=1,2", "--policy=off,tree:4", "--kv-cache-tokens=4096"]
    assert policies.main([*common, *flags, f"--json={measured}"]) == 0
    profile = ROOT / "docs/benchmarks/profile-cpu.json"
    validate = ["validate", f"--trace={trace}", f"--profile={profile}", f"--measured={measured}"]
    assert cli.main([*validate, f"--json={out}", "--fail-above=1e9"]) == 0
    document = json.loads(out.read_text())
    assert {(one["batch_size"], one["policy"]) for one in document["cells"]} == {
        (size, policy) for size in (1, 2) for policy in ("off", "tree:4")
    }
    assert document["provenance"]["arguments"]["profile"] == "profile-cpu.json"  # not this machine
    assert "Median error over 4 cells" in capsys.readouterr().out
    assert cli.main([*validate, "--fail-above=-1"]) == 1
    with pytest.raises(ConfigError, match="The trace is of tiny, but"):
        Measured({}, "large", 12, 12, 64).check(Trace.load(trace))
