"""Steps in fixed memory, padded to buckets, walked on the device: on a CPU, over references."""

from __future__ import annotations

import functools
import random

import numpy as np
import plain_head as plain
import pytest
import tiny_models
import torch
from engine.driving import Adversary, request, run
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_reference import PAGED

from cast_drafters.eagle.checkpoint import write_head
from cast_kernels.backend import TORCH
from cast_server import build
from cast_server.engine.device_pass import DevicePass
from cast_server.engine.request import SamplingParams
from cast_server.engine.target_pass import HostPass
from cast_server.training.features import FeatureRecorder

VOCAB, WIDTH = tiny_models.VOCAB_SIZE, tiny_models.SIZES["hidden_size"]
SHARED, LENGTH = 24, 30
MIXES = (
    {"temperature": 0.0},
    {"temperature": 0.9},
    {"temperature": 0.0, "repetition_penalty": 1.2, "logprobs": 2},
    {"temperature": 1.2, "top_k": 40},
    {"temperature": 1.0, "min_tokens": 12, "logprobs": 3},
    {"temperature": 0.7, "logit_bias": {7: 3.0}},
    {"temperature": 1e-6},
    {"temperature": 1.0, "top_p": 0.9},
)
COUNT = len(MIXES)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@functools.cache
def prompts() -> list[list[int]]:
    chosen = random.Random(0)
    shared = [chosen.randrange(VOCAB) for _ in range(SHARED)]
    tails = [[chosen.randrange(VOCAB) for _ in range(n)] for n in (7, 2, 19, 41, 1, 8, 3, 30)]
    return [shared + tail if i % 2 == 0 else tail for i, tail in enumerate(tails)]


def requests(policies):
    return [
        request(
            str(i),
            prompts()[i],
            SamplingParams(max_tokens=LENGTH, **mix),
            policies[i % len(policies)],
            seed=(100 + i) * (-1) ** i * 2**40,
        )
        for i, mix in enumerate(MIXES)
    ]


@functools.cache
def expected_of(family):
    core = tiny_models.tiny_core(tiny_models.model_of(family), kernels="torch")
    assert isinstance(core.target, HostPass)
    return run(core, requests(["off"]), concurrency=1)


def assert_same(answers, family) -> None:
    expected = expected_of(family)
    for name, answer in answers.items():
        assert answer.tokens == expected[name].tokens, name
        assert answer.text == expected[name].text
        for one, two in zip(answer.logprobs, expected[name].logprobs, strict=True):
            assert one.token_id == two.token_id
            assert one.logprob == pytest.approx(two.logprob, abs=1e-4)


def backend_for(device, wanted):
    return TORCH if wanted == "torch" else PAGED


@pytest.fixture
def make_core(monkeypatch):
    monkeypatch.setattr(build, "choose_backend", backend_for)

    def make(family="llama", **changes):
        core = tiny_models.tiny_core(tiny_models.model_of(family), **changes)
        assert isinstance(core.target, DevicePass)
        return core

    return make


def watch_rows(core) -> list[int]:
    """The rows of all passes from now on, padding and all."""
    seen: list[int] = []
    forward = core.runner.forward

    def watched(batch):
        seen.append(len(batch.input_ids_N))
        return forward(batch)

    core.runner.forward = watched
    return seen


def mislead(core, family, nodes) -> None:
    truth = {str(i): prompts()[i] + expected_of(family)[str(i)].tokens for i in range(COUNT)}
    core.drafter = Adversary(VOCAB, nodes, False, truth)


def accepted(answers) -> int:
    return sum(a.last.speculation.num_accepted_draft_tokens for a in answers.values())


@pytest.mark.parametrize("buckets", [0, 1, 6])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_every_sampling_parameter_beside_every_other(make_core, family, buckets) -> None:
    core = make_core(family, cuda_graphs=buckets, max_batched_tokens=80, max_num_seqs=6)
    rows = watch_rows(core)
    for policies, nodes in (["off"], 0), (["tree:12", "off", "chain:4", "tree:3"], 12):
        mislead(core, family, nodes)
        assert_same(run(core, requests(policies)), family)
    assert len(core.target.buckets) == buckets
    small = [count for count in rows if count <= 64]
    assert small
    if buckets:
        assert set(small) == set(core.target.buckets) & set(small)


def test_paths_longer_than_one_move_takes(make_core) -> None:
    """Longer than the backend moves at once: those trees are walked on the host."""
    core = make_core(cuda_graphs=3, max_draft_rows=256)
    mislead(core, "llama", 30)
    answers = run(core, requests(["tree:30"]))
    assert_same(answers, "llama")
    assert accepted(answers) > 100


def test_preemption(make_core) -> None:
    core = make_core(cuda_graphs=4, kv_cache_tokens=180, max_model_len=96)
    mislead(core, "llama", 6)
    assert_same(run(core, requests(["tree:6", "off"])), "llama")
    assert core.scheduler.num_preemptions > 2


@pytest.mark.parametrize("buckets", [0, 5])
def test_a_head_sees_what_was_accepted_where_it_was_moved_to(make_core, tmp_path, buckets) -> None:
    """The same drafts as on the CPU's own path, after branches that were accepted."""
    config = plain.config(
        vocab_size=VOCAB, target_hidden_size=WIDTH, draft_vocab_size=200, layer_ids=(0, 1, 1)
    )
    write_head(tmp_path, config, plain.weights(config))
    settings = {"drafter": "eagle", "head": str(tmp_path), "draft_sources": ""}
    settings |= {"max_draft_rows": 128, "max_num_seqs": 6}
    fixed = make_core(cuda_graphs=buckets, **settings)
    usual = tiny_models.tiny_core(tiny_models.model_of("llama"), kernels="torch", **settings)
    assert isinstance(usual.target, HostPass)
    drafts = [watch_drafts(core) for core in (fixed, usual)]
    fixed.grown = None  # which would ask no drafter for trees
    for core in (fixed, usual):
        answers = run(core, requests(["tree:8"]))
        assert_same(answers, "llama")
        assert accepted(answers) > 50
    assert len(drafts[0]) > 50
    assert [one[:2] for one in drafts[0]] == [one[:2] for one in drafts[1]]
    for one, other in zip(*drafts, strict=True):
        assert one[2] == pytest.approx(other[2], abs=1e-3)


def watch_drafts(core) -> list[tuple[str, list[int], list[float]]]:
    """What the head drafts; the engine gets trees with the right path hidden in them instead."""
    seen: list[tuple[str, list[int], list[float]]] = []
    truth = {str(i): prompts()[i] + expected_of("llama")[str(i)].tokens for i in range(COUNT)}
    instead, propose = Adversary(VOCAB, 8, False, truth), core.drafter.propose

    def watched(contexts, gate=None):
        trees = propose(contexts, gate)
        for one, tree in zip(contexts, trees, strict=True):
            if len(tree):
                confidences = tree.confidences_T.tolist()
                seen.append((one.request_id, tree.token_ids_T.tolist(), confidences))
        return instead.propose(contexts)

    core.drafter.propose = watched
    return seen


def test_another_observer_is_shown_what_comes_after_it(make_core) -> None:
    """Buckets belong to the observer they were made for; without them its states are right too."""
    core = make_core(cuda_graphs=3)
    shown: list[int] = []

    class Observer:
        layer_ids = (1,)

        def record(self, slots_M, hidden) -> None:
            shown.append(len(slots_M))

        def move(self, source_M, target_M) -> None:
            pass

    core.runner.watch(Observer())
    assert_same(run(core, requests(["off"])), "llama")
    assert len(shown) > 10
    assert min(shown) < min(core.target.buckets)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=5),
    st.integers(0, 6),
    st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_any_ragged_steps(shapes, buckets, seed) -> None:
    """Prompt lengths and tree sizes; greedy and seeded tokens are those of plain decoding."""
    chosen = random.Random(seed)
    made = [
        request(
            str(i),
            [chosen.randrange(VOCAB) for _ in range(length)],
            SamplingParams(max_tokens=9, ignore_eos=True, temperature=chosen.choice([0.0, 0.8])),
            f"tree:{nodes}" if nodes else "off",
            seed=i,
        )
        for i, (length, nodes) in enumerate(shapes)
    ]
    plainly = run(tiny_models.tiny_core(tiny_models.model_of("llama")), made, concurrency=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "choose_backend", backend_for)
        changes = {"cuda_graphs": buckets, "max_draft_rows": 20, "max_batched_tokens": 32}
        core = tiny_models.tiny_core(tiny_models.model_of("llama"), **changes)
    truth = {one.id: [*one.prompt_token_ids, *plainly[one.id].tokens] for one in made}
    core.drafter = Adversary(VOCAB, 9, False, truth)
    answers = run(core, made)
    assert {k: a.tokens for k, a in answers.items()} == {k: a.tokens for k, a in plainly.items()}


def test_padding_is_written_nowhere(make_core, tmp_path) -> None:
    """Bit by bit: keys and values of target and head, and the head's states."""
    config = plain.config(
        vocab_size=VOCAB, target_hidden_size=WIDTH, draft_vocab_size=200, layer_ids=(0, 1, 1)
    )
    write_head(tmp_path, config, plain.weights(config))
    core = make_core(cuda_graphs=2, drafter="eagle", head=str(tmp_path), draft_sources="")
    head = core.drafter.head
    memories = [core.runner.kv_cache_YS2KD[0], head._kv_cache_S2KD, head._state_SH[:-1]]
    for memory in memories:
        memory.fill_(7.0)
    core.add(requests(["chain:4"])[0])
    for _ in range(3):
        core.step()
    [sequence] = core.scheduler.running
    length = len(sequence.token_ids)
    assert sequence.slots(0, length).tolist() == list(range(length))
    own = set(range(length + 4))
    scratch = set(range(head.num_slots, head.num_slots + head.num_scratch))
    changed = [
        set((memory != 7.0).flatten(1).any(1).nonzero()[:, 0].tolist()) for memory in memories
    ]
    assert set(range(length - 1)) <= changed[0] <= own
    assert changed[1] <= own | scratch
    assert changed[2] <= own | scratch
    assert len(changed[1] & scratch) >= 3


def test_a_model_that_cannot_be_recorded_goes_without_graphs(make_core, caplog) -> None:
    """As any on a CPU."""
    core = make_core(cuda_graphs=3)
    core.target.capture(show_progress=False)
    assert core.target.buckets == ()
    assert "There are no CUDA graphs of steps of LlamaForCausalLM" in caplog.text
    mislead(core, "llama", 8)
    assert_same(run(core, requests(["tree:8"])), "llama")


def test_what_is_kept_for_training_is_the_same(make_core) -> None:
    """A recorder that watches later is shown the same states, moved to the same places."""
    kept = []
    for kernels in ("torch", "auto"):
        core = make_core(kernels=kernels) if kernels == "auto" else usual_core()
        mislead(core, "llama", 8)
        kept.append(record(core))
    assert kept[0].keys() == kept[1].keys() == {str(i) for i in range(COUNT)}
    for name, rows in kept[0].items():
        torch.testing.assert_close(rows, kept[1][name], atol=0.05, rtol=0.02)


def test_padding_is_kept_apart_from_the_last_slot() -> None:
    core = usual_core()
    recorder, last = FeatureRecorder(core.runner, (1,)), core.runner.kv_cache_YS2KD.shape[1] - 1
    ones = torch.ones(1, WIDTH)
    recorder.record(torch.tensor([last]), [ones])
    recorder.record(torch.tensor([-1]), [7 * ones])
    recorder.move(torch.tensor([[-1, -1]]), torch.tensor([[-1, -1]]))
    assert (recorder.rows(np.array([last])) == 1).all()


def usual_core():
    core = tiny_models.tiny_core(tiny_models.model_of("llama"), kernels="torch")
    assert isinstance(core.target, HostPass)
    return core


def record(core) -> dict[str, torch.Tensor]:
    """Hidden states of all answers, bfloat16."""
    recorder, kept = FeatureRecorder(core.runner, (1, 2)), {}

    def keep(sequence) -> None:
        kept[sequence.id] = recorder.rows(sequence.slots(0, sequence.num_computed)).float()

    core.on_finish = keep
    assert accepted(run(core, requests(["tree:8"]))) > 50
    return kept
