"""Log-probabilities of prompts: those of a plain forward pass, however the prompt is computed."""

from __future__ import annotations

import functools
import random

import pytest
import tiny_models
import torch
from engine.driving import Adversary, request, run
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_reference import PAGED

from cast_kernels.backend import TORCH
from cast_server import build
from cast_server.engine.device_pass import DevicePass
from cast_server.engine.request import SamplingParams
from cast_server.engine.target_pass import HostPass
from cast_server.errors import RequestError

VOCAB = tiny_models.VOCAB_SIZE
SHARED = 40


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


def prompt(seed, length, shared=0) -> list[int]:
    common, own = random.Random(0), random.Random(seed)
    beginning = [common.randrange(VOCAB) for _ in range(shared)]
    return beginning + [own.randrange(VOCAB) for _ in range(length)]


@functools.cache
def plain(token_ids: tuple[int, ...], family="llama"):
    """What transformers' own forward pass makes of a text: [N, V]."""
    with torch.inference_mode():
        logits = tiny_models._model(family)(torch.tensor([token_ids])).logits[0]
    return logits.float().log_softmax(-1)


def reading(count=2, **params):
    return SamplingParams(prompt_logprobs=count, ignore_eos=True, **params)


def assert_read(answer, token_ids, count, family="llama") -> None:
    """Each token but the first exactly once, in order."""
    expected = plain(tuple(token_ids), family)
    read = answer.prompt_logprobs
    assert [one.token_id for one in read] == token_ids[1:]
    for place, one in enumerate(read):
        row = expected[place]
        assert one.logprob == pytest.approx(float(row[one.token_id]), abs=1e-4)
        values, _ = row.topk(count)
        assert [value for _, value in one.top] == pytest.approx(values.tolist(), abs=1e-4)
        assert [float(row[i]) for i, _ in one.top] == pytest.approx(values.tolist(), abs=1e-4)
        better = int((row > row[one.token_id] + 1e-4).sum())
        assert better < one.rank <= 1 + int((row > row[one.token_id] - 1e-4).sum())


def core_of(family="llama", **sizes):
    return tiny_models.tiny_core(tiny_models.model_of(family), **sizes)


@pytest.fixture(params=[HostPass, DevicePass])
def make_core(request, monkeypatch):
    """Engines with both ways to run the target's pass."""
    is_host = request.param is HostPass

    def make(family="llama", **sizes):
        core = core_of(family, **({"kernels": "torch"} if is_host else {"cuda_graphs": 3}), **sizes)
        assert isinstance(core.target, request.param)
        return core

    if not is_host:
        choose = lambda device, wanted: TORCH if wanted == "torch" else PAGED  # noqa: E731
        monkeypatch.setattr(build, "choose_backend", choose)
    return make


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("rows", [16, 512])
def test_equals_a_plain_forward_pass(make_core, family, rows) -> None:
    core = make_core(family, max_batched_tokens=rows, max_num_seqs=4)
    prompts = [prompt(i, length) for i, length in enumerate((1, 2, 33, 70))]
    requests = [request(str(i), ids, reading(3, max_tokens=4)) for i, ids in enumerate(prompts)]
    answers = run(core, requests)
    for i, ids in enumerate(prompts):
        assert_read(answers[str(i)], ids, 3, family)
        assert len(answers[str(i)].tokens) == 4


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    shared=st.sampled_from([0, SHARED]),
    rows=st.integers(16, 90),
    caching=st.booleans(),
    policy=st.sampled_from(["off", "tree:8", "chain:3"]),
    count=st.integers(0, 4),
    most_tokens=st.integers(0, 12),
)
def test_any_chunks_companions_prefixes_and_drafts(
    lengths, shared, rows, caching, policy, count, most_tokens
) -> None:
    """Every other request only writes. All of them run twice, so that prefixes are known."""
    core = core_of(max_batched_tokens=rows, prefix_caching=caching, max_num_seqs=4)
    core.drafter = Adversary(VOCAB, 8, False, {})
    prompts = [prompt(i, length, shared) for i, length in enumerate(lengths)]
    quiet = SamplingParams(max_tokens=9, ignore_eos=True, temperature=0.0)
    loud = reading(count, max_tokens=most_tokens, temperature=0.0)
    for name in ("first", "again"):
        requests = [
            request(f"{name}{i}", ids, quiet if i % 2 else loud, policy)
            for i, ids in enumerate(prompts)
        ]
        answers = run(core, requests, concurrency=3)
        for i, ids in enumerate(prompts):
            answer = answers[f"{name}{i}"]
            if i % 2:
                assert not answer.prompt_logprobs
            else:
                assert_read(answer, ids, count)
                assert len(answer.tokens) == most_tokens
                assert answer.last.num_output_tokens == most_tokens
                assert answer.last.finish_reason == "length"


def test_cached_prefixes_are_computed_again_and_still_shared(make_core) -> None:
    core = make_core()
    ids = prompt(1, 21, SHARED)
    short = SamplingParams(max_tokens=1)
    run(core, [request("a", ids, short)])
    read = run(core, [request("b", ids, reading(1, max_tokens=0))])["b"]
    assert_read(read, ids, 1)
    assert read.last.num_cached_tokens == 0
    assert run(core, [request("c", ids, short)])["c"].last.num_cached_tokens == 60


@pytest.mark.parametrize("policy", ["off", "tree:6"])
def test_preemption_neither_loses_nor_doubles(make_core, policy) -> None:
    """Prompts longer than a step, in a cache too small for all: some are preempted while they are
    read, and start again from what others know by then."""
    core = make_core(kv_cache_tokens=200, max_batched_tokens=24, max_num_seqs=4)
    prompts = [prompt(i, 30 + 4 * i, 12) for i in range(6)]
    params = reading(2, max_tokens=40, temperature=0.0)
    requests = [request(str(i), ids, params, policy) for i, ids in enumerate(prompts)]
    answers = run(core, requests)
    assert core.scheduler.num_preemptions
    for i, ids in enumerate(prompts):
        assert_read(answers[str(i)], ids, 2)


def test_preempted_while_being_read(make_core) -> None:
    core = make_core(max_batched_tokens=16, max_num_seqs=4)
    ids = prompt(3, 60)
    core.add(request("a", ids, reading(1, max_tokens=2)))
    outputs = core.step() + core.step()
    core.scheduler.give_way()
    [sequence] = core.scheduler.waiting
    assert (sequence.num_computed, sequence.num_read) == (0, 32)
    while core.has_work:
        outputs += core.step()
    read = [one for output in outputs for one in output.prompt_logprobs]
    assert [one.token_id for one in read] == ids[1:]
    assert sequence.num_cached == 32  # what had been read was not computed again


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 0.9}])
@pytest.mark.parametrize("policy", ["off", "tree:8"])
def test_reading_changes_no_token(make_core, params, policy) -> None:
    ids = prompt(5, 50)
    core = make_core(max_batched_tokens=20, max_num_seqs=4)
    core.drafter = Adversary(VOCAB, 8, True, {})
    whole = SamplingParams(max_tokens=20, ignore_eos=True, **params)
    quiet = run(core, [request("a", ids, whole, "off", seed=7)])["a"]
    loud = run(core, [request("b", ids, reading(5, max_tokens=20, **params), policy, seed=7)])["b"]
    assert loud.tokens == quiet.tokens
    assert_read(loud, ids, 5)


def test_a_failing_step_loses_nothing(monkeypatch) -> None:
    """What the failed step had read is read again when its sequences run one by one."""
    core = core_of(max_batched_tokens=64)
    prompts = [prompt(i, 40) for i in range(3)]
    forward, calls = core.runner.forward, []

    def failing(batch):
        calls.append(batch)
        if len(calls) == 2:
            raise RuntimeError("once")
        return forward(batch)

    monkeypatch.setattr(core.runner, "forward", failing)
    params = reading(1, max_tokens=3)
    answers = run(core, [request(str(i), ids, params) for i, ids in enumerate(prompts)])
    for i, ids in enumerate(prompts):
        assert_read(answers[str(i)], ids, 1)


def test_logits_of_others_are_not_asked_for(monkeypatch) -> None:
    """A prompt that nobody reads costs one row of logits."""
    core = core_of()
    seen = []
    forward = core.runner.forward
    monkeypatch.setattr(
        core.runner,
        "forward",
        lambda batch: seen.append(len(batch.logit_rows)) or forward(batch),
    )
    once = SamplingParams(max_tokens=1)
    run(core, [request("a", prompt(1, 30), once)])
    run(core, [request("b", prompt(2, 30), reading(0, max_tokens=0))])
    assert seen == [1, 30]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"max_tokens": -1, "prompt_logprobs": 1}, "max_tokens"),
    ],
)
def test_what_cannot_be_is_refused(fields, name) -> None:
    with pytest.raises(RequestError, match=f"got {fields[name]}") as refused:
        SamplingParams(**fields)
    assert refused.value.param == name
