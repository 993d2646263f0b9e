"""Drafts that grow on the device: tokens of plain decoding, and one look at the device a step."""

from __future__ import annotations

import copy
import functools
import random
from dataclasses import dataclass, replace

import numpy as np
import plain_head as plain
import pytest
import tiny_models
import torch
from engine.driving import request, run
from paged_reference import PAGED
from tracing import launches, trace

from cast_drafters.eagle import device_growth
from cast_drafters.eagle.checkpoint import write_head
from cast_drafters.eagle.device_growth import Land
from cast_drafters.eagle.served import LevelInputs
from cast_kernels.backend import TORCH
from cast_kernels.frontier.kernel import MAX_NODES
from cast_server import build
from cast_server.engine import core as core_module
from cast_server.engine import grown_pass, model_runner
from cast_server.engine.forward_batch import lay_out
from cast_server.engine.request import SamplingParams
from cast_server.engine.step_buffers import StepBuffers, StepInputs

VOCAB, WIDTH = tiny_models.VOCAB_SIZE, tiny_models.SIZES["hidden_size"]
SHARED, LENGTH = 9, 10
HEATS = (0.0, 0.8, 0.0, 1.2)
POLICIES = {
    "chains": ("chain:3",) * 4,
    "trees": ("tree:6", "tree:9", "tree:3", "tree:12"),
    "cast": ("cast:8",) * 4,
    "mixed": ("off", "chain:4", "tree:6", "cast:5"),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture(autouse=True)
def _no_step_fails(monkeypatch):
    """What fails would be done again without drafts, and nothing would seem to be wrong."""

    def fail(*what):
        raise AssertionError(what)

    monkeypatch.setattr(core_module._log, "exception", fail)


@functools.cache
def prompts() -> list[list[int]]:
    chosen = random.Random(0)
    shared = [chosen.randrange(VOCAB) for _ in range(SHARED)]
    tails = [[chosen.randrange(VOCAB) for _ in range(n)] for n in (5, 3, 11, 4)]
    return [shared + tail if i % 2 == 0 else tail for i, tail in enumerate(tails)]


def requests(policies, length=LENGTH, **more):
    return [
        request(
            str(i),
            prompts()[i],
            SamplingParams(max_tokens=length, ignore_eos=True, temperature=heat, **more),
            policy,
            seed=100 + i,
        )
        for i, (heat, policy) in enumerate(zip(HEATS, policies, strict=True))
    ]


@functools.cache
def expected(length=LENGTH) -> dict[str, list[int]]:
    """Plain decoding on the CPU backend, one by one."""
    core = tiny_models.tiny_core(tiny_models.model_of("llama"))
    return tokens(run(core, requests(["off"] * 4, length), concurrency=1))


def tokens(answers) -> dict[str, list[int]]:
    return {name: answer.tokens for name, answer in answers.items()}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    directory = tmp_path_factory.mktemp("head")
    config = plain.config(
        vocab_size=VOCAB, target_hidden_size=WIDTH, draft_vocab_size=VOCAB, layer_ids=(0, 1, 1)
    )
    write_head(directory, config, plain.weights(config))
    return str(directory)


SETTINGS = {"drafter": "eagle", "draft_sources": "", "cuda_graphs": 4, "max_draft_rows": 32}
SETTINGS |= {"max_num_seqs": 4}


@pytest.fixture
def make_core(monkeypatch, head):
    """On the CPU's operations, over arrays at fixed places; which guesses right ever so often."""
    monkeypatch.setattr(
        build, "choose_backend", lambda _, wanted: TORCH if wanted == "torch" else PAGED
    )

    def make(**changes):
        core = tiny_models.tiny_core(
            tiny_models.model_of("llama"), head=head, **SETTINGS | {"kernels": "auto"} | changes
        )
        whisper(core, expected())
        return core

    return make


def whisper(core, truth) -> None:
    """The head likes tokens that follow each other in what is going to be said."""
    served, follows = core.drafter.head, torch.zeros(VOCAB, VOCAB)
    for name, answer in truth.items():
        text = [*prompts()[int(name)], *answer]
        follows[text[:-1], text[1:]] = 9.0
    follows, level = follows.to(served.device), served.level

    def informed(inputs):
        asked = inputs.rows.tokens_N
        asked = asked if inputs.wanted_R is None else asked[inputs.wanted_R]
        return level(inputs) + follows[asked]

    served.level = informed


def accepted(answers) -> int:
    return sum(a.last.speculation.num_accepted_draft_tokens for a in answers.values())


@pytest.mark.parametrize("sources", ["", "text"])
@pytest.mark.parametrize("policies", POLICIES)
def test_tokens_are_those_of_plain_decoding(make_core, policies, sources) -> None:
    core = make_core(draft_sources=sources)
    answers = run(core, requests(POLICIES[policies]))
    assert tokens(answers) == expected()
    assert core.grown.drafts.num_steps > 2
    assert accepted(answers) > (0 if policies == "cast" else 8)


def test_more_sequences_than_candidates_have_room(make_core) -> None:
    core = make_core(max_num_seqs=2048, max_batched_tokens=4096, max_draft_rows=4096)
    assert growth_of(core).land.forest.nobody < MAX_NODES
    assert core.target.sizes[-1].sequences == 2048
    assert tokens(run(core, requests(POLICIES["trees"]))) == expected()
    assert core.grown.drafts.num_steps > 2
    assert not growth_of(core).holds(1025, 1025)


def test_chains_longer_than_one_move_takes(make_core, monkeypatch) -> None:
    """As much of a path is accepted as can be moved, and the next token is right all the same."""
    monkeypatch.setattr(build, "choose_backend", lambda *_: replace(PAGED, max_moves=4))
    core = make_core(max_draft_rows=96)
    whisper(core, expected(40))
    [answer] = run(core, requests(["chain:30"] * 4, 40)[:1]).values()
    assert answer.tokens == expected(40)["0"]
    assert core.grown.drafts.num_steps > 1
    assert len(answer.last.speculation.histogram) == 1 + 4


def test_time_is_shared_out_between_levels_and_verification(make_core) -> None:
    core = make_core()
    run(core, requests(POLICIES["trees"]))
    drafted = [one for one in core.planner.meter.recent if one.levels]
    assert len(drafted) > 3
    for one in drafted:
        assert one.draft > 0
        assert one.verify > 0
        assert one.draft + one.verify < one.seconds


def test_prefix_hits_and_preemption(make_core) -> None:
    core = make_core(kv_cache_tokens=64, max_model_len=48)
    answers = run(core, requests(POLICIES["trees"]))
    assert tokens(answers) == expected()
    assert core.scheduler.num_preemptions > 0
    assert any(one.last.num_cached_tokens for one in answers.values())
    assert core.grown.drafts.num_steps > 2
    assert accepted(answers) > 8


def select_quickly(core) -> None:
    """Without the kernel that takes seconds in the interpreter, where it has tests of its own."""
    head = core.drafter.head
    head.backend = replace(head.backend, log_softmax_topk=TORCH.log_softmax_topk)


@pytest.mark.parametrize("policies", ["trees", "mixed"])
def test_on_kernels(head, policies, device) -> None:
    settings = SETTINGS | {"kernels": "triton", "device": str(device), "cuda_graphs": 2}
    core = tiny_models.tiny_core(tiny_models.model_of("llama"), head=head, **settings)
    assert [one.graph.is_captured for one in core.grown._buckets] == [device.type == "cuda"] * 2
    if device.type == "cpu":  # what was recorded knows nothing of it
        select_quickly(core)
        whisper(core, expected())
    answers = run(core, requests(POLICIES[policies]))
    assert tokens(answers) == expected()
    assert core.grown.drafts.num_steps > 1


@pytest.mark.parametrize(
    "more",
    [{"top_k": 40}, {"presence_penalty": 0.5}, {"logprobs": 1}, {"logit_bias": {3: 1.0}}],
)
def test_what_the_device_cannot_do_takes_the_other_way(make_core, more) -> None:
    core = make_core()
    plainly = tokens(run(core, requests(["off"] * 4, **more)))
    assert tokens(run(core, requests(POLICIES["trees"], **more))) == plainly
    assert core.grown.drafts.num_steps == 0
    assert core.planner.meter.nodes > 20


def test_policies_that_look_at_every_level_take_the_other_way(make_core) -> None:
    core = make_core()
    assert tokens(run(core, requests(["chain-cost", "cast-paper", "tree:6", "off"]))) == expected()
    assert core.planner.meter.nodes > 20
    assert core.grown.drafts.num_steps < 3  # once the others have ended


def test_without_buckets_nothing_grows_there(make_core) -> None:
    core = make_core(cuda_graphs=0)
    assert core.grown is None
    assert tokens(run(core, requests(POLICIES["trees"]))) == expected()


@pytest.mark.parametrize("policy", ["chain:3", "tree:6", "tree:8"])
def test_trees_are_those_of_the_host(make_core, policy) -> None:
    """As long as neither learns: the device's lessons come a step later."""
    grown = []
    for on_device in (False, True):
        core = make_core()
        seen = watch_trees(core)
        core.drafter.observe = lambda results: None
        core.grown.drafts.learn = lambda step, results: None
        if not on_device:
            core.grown = None
        run(core, requests([policy] * 4))
        grown.append(seen)
    assert len(grown[1]) > 8
    assert grown[0].keys() == grown[1].keys()
    for key, tree in grown[0].items():
        other = grown[1][key]
        assert tree.token_ids_T.tolist() == other.token_ids_T.tolist()
        assert tree.parents_T.tolist() == other.parents_T.tolist()
        assert tree.log_probs_T == pytest.approx(other.log_probs_T, abs=1e-4)
        assert tree.confidences_T == pytest.approx(other.confidences_T, abs=1e-4)
        assert tree.ranks_T.tolist() == other.ranks_T.tolist()


def watch_trees(core) -> dict:
    """What is verified from now on, by request and length of its text."""
    seen = {}
    for owner, name in ((core.target, "launch"), (core.grown, "launch")):
        launch = getattr(owner, name)

        def watched(scheduled, drafts, launch=launch):
            launched = launch(scheduled, drafts)

            class Watched:
                def wait(self):
                    verified = launched.wait()
                    for walk in verified.walks:
                        if len(walk.tree):
                            seen[walk.sequence.id, len(walk.sequence.token_ids)] = walk.tree
                    return verified

            return Watched()

        setattr(owner, name, watched)
    return seen


def test_the_layout_is_that_of_the_host(make_core, monkeypatch) -> None:
    """What the device has laid out, beside what the host lays out of the same trees."""
    laid_out = []
    verify = grown_pass.verify_rows

    def watched(runner, inputs):
        laid_out.append(inputs)
        return verify(runner, inputs)

    monkeypatch.setattr(grown_pass, "verify_rows", watched)
    wait, compared = grown_pass._Launched.wait, []

    def compare(launched):
        verified = wait(launched)
        trees = [walk.tree for walk in verified.walks]
        mine = laid_out[-1]
        size = next(one for one in core.target.sizes if one.rows == len(mine.batch.input_ids_N))
        buffers = StepBuffers(core.runner, core.target._buffers._fixed.size, 4, 32)
        rows = lay_out(launched.scheduled, trees)
        buffers.send(rows, verified.walks, [True] * len(trees))
        assert_same(mine, buffers.inputs(size), rows)
        compared.append(sum(map(len, trees)))
        return verified

    monkeypatch.setattr(grown_pass._Launched, "wait", compare)
    core = make_core()
    for policies in ("trees", "mixed"):
        assert tokens(run(core, requests(POLICIES[policies]))) == expected()
    assert len(compared) > 4
    assert sum(compared) > 40


def assert_same(mine: StepInputs, other: StepInputs, rows) -> None:
    batch, host = mine.batch, other.batch
    count = len(rows.token_ids)
    for name in ("input_ids_N", "position_ids_N", "slots_M", "logit_rows"):
        assert getattr(batch, name).tolist() == getattr(host, name).tolist(), name
    for name in ("seed_R", "temperature_R", "is_greedy_R", "parent_R"):
        assert getattr(mine, name)[:count].tolist() == getattr(other, name)[:count].tolist(), name
    has_noise = ~mine.is_greedy_R[:count]
    assert (mine.index_R[:count] == other.index_R[:count])[has_noise].all()
    assert mine.cu_trees_B1.tolist() == other.cu_trees_B1.tolist()
    for name in ("cu_rows_B1", "cu_tree_B1", "mask_NW"):
        assert getattr(batch.plan, name).tolist() == getattr(host.plan, name).tolist(), name
    there = range(len(rows.sequences))
    assert batch.plan.context_B[: len(there)].tolist() == host.plan.context_B[: len(there)].tolist()
    assert batch.plan.depth_T[:count].tolist() == host.plan.depth_T[:count].tolist()
    for index in there:
        pages = -(-rows.sequences[index].num_keys // host.plan.page_size)
        assert (batch.plan.page_BP[index, :pages] == host.plan.page_BP[index, :pages]).all()


def test_the_last_steps_books_are_done_while_the_device_works(make_core) -> None:
    core = make_core()
    events: list[str] = []
    launch, work_off = core.grown.launch, core.backlog.work_off

    def watched(scheduled, step):
        launched = launch(scheduled, step)
        events.append("launched")

        class Watched:
            def wait(self):
                events.append("waited")
                return launched.wait()

        return Watched()

    def working_off():
        if len(core.backlog):
            events.append("books")
        work_off()

    core.grown.launch, core.backlog.work_off = watched, working_off
    seen = core.drafter.calibration._seen.sum()
    run(core, requests(POLICIES["trees"]))
    assert core.drafter.calibration._seen.sum() > seen + 20
    first = events.index("waited") + 1
    assert events[first : first + 6] == ["launched", "books", "waited"] * 2
    assert events[-1] == "books"
    assert not len(core.backlog)
    assert core.planner.meter.steps > 3


# What is recorded, on a device that cannot be read from, and told twice.


@pytest.fixture
def unread_core(monkeypatch, head):
    nothing = torch.zeros(12, dtype=torch.int64, device="meta")
    monkeypatch.setattr(model_runner.ModelRunner, "_make_probe", lambda _: (nothing, nothing))
    monkeypatch.setattr(model_runner.ModelRunner, "_probe_error", lambda *_: 0.0)
    settings = SETTINGS | {"kernels": "triton", "device": "meta", "cuda_graphs": 3}
    return tiny_models.tiny_core(tiny_models.model_of("llama"), head=head, **settings)


@dataclass(frozen=True)
class Roots:
    land: Land
    inputs: LevelInputs


@dataclass(frozen=True)
class Whole:
    land: Land
    known: StepInputs


def growth_of(core):
    return core.grown.drafts._growth


def test_growing_asks_nothing_of_the_device(unread_core) -> None:
    core = unread_core
    served, growth = core.drafter.head, growth_of(core)
    with launches(is_run=False):
        for bucket in growth._buckets:
            inputs = Roots(growth.land, growth._buffers.inputs(bucket.size))
            trace(lambda given: device_growth.grow_roots(served, given.land, given.inputs), inputs)
            level = trace(
                lambda land, rows=bucket.size.rows: device_growth.grow_level(served, land, rows),
                growth.land,
            )
            for name, count in {"frontier": 1, "log_softmax_topk": 2, "tree_attention": 1}.items():
                assert level.count(f"cast_kernels.{name}.kernel") == count
        for size in core.target.sizes:
            whole = trace(
                lambda given: grown_pass.verify_grown(core.runner, given.land, given.known),
                Whole(growth.land, core.target.buffers.inputs(size)),
            )
            for name in ("frontier", "tree_accept", "kv_commit"):
                assert whole.count(f"cast_kernels.{name}.kernel") == 1


def test_a_step_reads_once(unread_core, monkeypatch) -> None:
    """All of a step, from the schedule to the next one, where whatever else reads is refused."""
    core, letters = unread_core, []

    class Letter:
        """Says that nothing has grown, and that token 0 comes next."""

        def __init__(self, tensor) -> None:
            assert tensor.device.type == "meta"
            letters.append(tensor)

        def wait(self):
            report = np.zeros((9, growth_of(core).land.forest.nobody + 1), np.int32)
            report[7] = np.array([-np.inf], np.float32).view(np.int32)
            for bucket in core.grown._buckets:
                walks = np.zeros(bucket.size.sequences * (bucket.max_depth + 2), np.int32)
                nobodys = np.full(2 * bucket.size.rows, 99, np.int32)
                letter = np.concatenate([walks, nobodys, report.reshape(-1)])
                if letter.shape == letters[-1].shape:
                    return letter
            raise AssertionError(letters[-1].shape)

    monkeypatch.setattr(grown_pass, "Arrival", Letter)
    for i, policy in enumerate(("tree:6", "chain:3")):
        params = SamplingParams(max_tokens=30, ignore_eos=True, temperature=HEATS[i])
        core.add(request(str(i), prompts()[1][: 2 + i], params, policy, seed=i))
    for one in core.scheduler.schedule():  # the prompts, as if they had been computed
        one.sequence.advance(one.num_tokens)
        one.sequence.append([5])
    with launches(is_run=False):
        for count in range(1, 4):
            outputs = core.step()
            assert [one.new_token_ids for one in outputs] == [(0,), (0,)]
            assert len(letters) == core.grown.drafts.num_steps == count


def test_all_steps_of_a_bucket_are_one_graph(head, monkeypatch) -> None:
    """A run on the interpreter, whose every pass is traced, on a copy, before it is made."""
    settings = SETTINGS | {"kernels": "triton", "cuda_graphs": 1, "max_draft_rows": 12}
    core = tiny_models.tiny_core(tiny_models.model_of("llama"), head=head, **settings)
    select_quickly(core)
    whisper(core, expected())
    seen: dict[str, list[str]] = {}

    def watch(module, name, inputs_of, call) -> None:
        function = getattr(module, name)

        def traced(*args):
            code = trace(lambda given: call(function, given, *args), inputs_of(*args))
            seen.setdefault(name, []).append(code)
            return function(*args)

        monkeypatch.setattr(module, name, traced)

    watch(
        device_growth,
        "grow_roots",
        lambda served, land, inputs: Roots(copy.deepcopy(land), inputs),
        lambda function, given, served, *_: function(served, given.land, given.inputs),
    )
    watch(
        device_growth,
        "grow_level",
        lambda served, land, rows: copy.deepcopy(land),
        lambda function, given, served, land, rows: function(served, given, rows),
    )
    watch(
        grown_pass,
        "verify_grown",
        lambda runner, land, known: Whole(copy.deepcopy(land), known),
        lambda function, given, runner, *_: function(runner, given.land, given.known),
    )
    with launches(is_run=True):
        answers = run(core, requests(["off", "tree:5x3", "off", "tree:4x2"])[1::2])
    assert tokens(answers) == {name: expected()[name] for name in ("1", "3")}
    assert {name: len(set(codes)) for name, codes in seen.items()} == {
        "grow_roots": 1,
        "grow_level": 1,
        "verify_grown": 1,
    }
    assert min(map(len, seen.values())) > 1
