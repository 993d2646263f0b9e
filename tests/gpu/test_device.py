"""What only a CUDA device can prove, `pytest -m gpu`; on a CPU the same functions, interpreted.

Kernels and engines on a device are tested where they are tested on a CPU: `tests/kernels`,
`tests/bench/test_kernels.py`, `tests/engine/test_kernel_engine.py`.
"""

from __future__ import annotations

import random
from dataclasses import replace

import plain_head as plain
import pytest
import tiny_models
import torch
from engine.driving import Adversary, request, run

from cast_kernels.backend import TORCH
from cast_profiler.profile import Profile
from cast_server.engine.request import SamplingParams
from cast_server.profiling import cli as profile

VOCAB, LENGTH = tiny_models.VOCAB_SIZE, 8
MIXES = ({"temperature": 0.0}, {"temperature": 0.9}, {"temperature": 0.0}, {"temperature": 1.2})
POLICIES = ("tree:6", "chain:4", "tree:3", "off")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


def requests(policies=POLICIES):
    chosen = random.Random(0)
    return [
        request(
            str(i),
            [chosen.randrange(VOCAB) for _ in range(length)],
            SamplingParams(max_tokens=LENGTH, ignore_eos=True, **mix),
            policy,
            seed=i,
        )
        for i, (length, mix, policy) in enumerate(zip((5, 27, 11, 2), MIXES, policies, strict=True))
    ]


def make_core(device, **changes):
    settings = {"kernels": "triton", "device": str(device), "max_draft_rows": 24}
    settings |= {"max_num_seqs": 4, "max_batched_tokens": 24}
    return tiny_models.tiny_core(tiny_models.model_of("mistral"), **settings | changes)


def tokens(answers) -> dict[str, list[int]]:
    return {name: answer.tokens for name, answer in answers.items()}


def mislead(core, truth) -> None:
    known = {one.id: [*one.prompt_token_ids, *truth[one.id]] for one in requests()}
    core.drafter = Adversary(VOCAB, 6, False, known)


@pytest.fixture(scope="module")
def truth():
    """Plain decoding on the CPU, one by one."""
    core = make_core("cpu", kernels="torch")
    return tokens(run(core, requests(["off"] * 4), concurrency=1))


def test_graphs_say_what_launches_say(device, truth) -> None:
    """Greedy and seeded requests side by side, with other trees at every step."""
    for graphs in (0, 3):
        core = make_core(device, cuda_graphs=graphs)
        recorded = [bucket.graph.is_captured for bucket in core.target._buckets]
        assert recorded == [device.type == "cuda"] * graphs
        mislead(core, truth)
        answers = run(core, requests())
        assert tokens(answers) == truth
        assert sum(one.last.speculation.num_accepted_draft_tokens for one in answers.values()) > 2


def test_a_step_waits_for_nothing_but_its_outcome(device, truth) -> None:
    """torch refuses whatever would wait, from the step's layout until its outcome is read."""
    core = make_core(device, cuda_graphs=0)
    mislead(core, truth)
    run_step, steps = core.target._run, []

    def watched(*args):
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            steps.append(run_step(*args))
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        return steps[-1]

    core.target._run = watched
    assert tokens(run(core, requests())) == truth
    assert len(steps) > 3


def test_a_step_that_grows_its_drafts_waits_for_nothing_before_its_outcome(
    device, tmp_path
) -> None:
    """From the first row of the head on, as above: all that is drafted, chosen and verified."""
    plain.save_for_tiny_models(tmp_path)
    settings = {"drafter": "eagle", "head": str(tmp_path), "cuda_graphs": 3}
    settings |= {"kernels": "triton", "device": str(device), "max_draft_rows": 24}
    settings |= {"max_num_seqs": 4}
    model = tiny_models.model_of("llama")
    core = tiny_models.tiny_core(model, **settings)
    graphs = [
        graph for one in core.grown.drafts._growth._buckets for graph in (one.roots, one.level)
    ]
    graphs += [one.graph for one in core.grown._buckets]
    assert [one.is_captured for one in graphs] == [device.type == "cuda"] * 9
    if device.type == "cpu":  # where its interpretation takes seconds
        head = core.drafter.head
        head.backend = replace(head.backend, log_softmax_topk=TORCH.log_softmax_topk)
    launch = core.grown.launch

    def watched(*args):
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(*args)
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")

    core.grown.launch = watched
    plainly = tiny_models.tiny_core(tiny_models.model_of("llama"))
    truth = tokens(run(plainly, requests(["off"] * 4), concurrency=1))
    assert tokens(run(core, requests())) == truth
    assert core.grown.drafts.num_steps > 3


def test_a_profile_has_the_buckets_of_the_graphs(device, tmp_path) -> None:
    """What it takes on a CPU is the interpreter's time, and of no use but here."""
    directory, file = tmp_path / "tiny", tmp_path / "profile.json"
    tiny_models.model_of("mistral").save_pretrained(directory)
    tiny_models.byte_level_tokenizer().save_pretrained(directory)
    flags = ["--model", str(directory), "--device", device.type, "--kernels", "triton"]
    flags += ["--cuda-graphs", "3", "--max-draft-rows", "8", "--kv-cache-tokens", "512"]
    flags += ["--quick", "--budget", "2", "--max-rows", "8", "--out", str(file)]
    assert profile.main(["run", *flags]) == 0
    measured = Profile.load(file)
    assert len(measured.verify.buckets) == 3
    seconds = measured.cost().verify_seconds
    assert seconds(1, 32) == seconds(measured.verify.buckets[0], 32) > 0
    assert ("device" in measured.provenance) == (device.type == "cuda")
