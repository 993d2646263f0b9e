"""What only a CUDA device can prove: `pytest -m gpu` on a machine that has one.

Each test compares with the CPU's own path in float32, which the other tests compare with everything
else.
"""

from __future__ import annotations

import copy
import functools
import json
import random

import plain_head as plain
import pytest
import tiny_models
import torch
from engine.driving import Adversary, request, run

from cast_bench import doctor, tiny_engine
from cast_bench.parity import check_all
from cast_drafters.eagle.checkpoint import write_head
from cast_kernels.backend import choose_backend
from cast_server.config import EngineConfig
from cast_server.engine.request import SamplingParams
from cast_server.profiling.measuring import Effort, measure_profile

pytestmark = pytest.mark.gpu

VOCAB, WIDTH = tiny_models.VOCAB_SIZE, tiny_models.SIZES["hidden_size"]
LENGTH = 8
MIXES = ({"temperature": 0.0}, {"temperature": 0.9}, {"temperature": 0.8, "top_k": 30})
POLICIES = ("tree:6", "chain:4", "tree:5")


@functools.cache
def model_of(family):
    return tiny_models.randomised(getattr(tiny_models, family))


def make_core(family, device, **changes):
    settings = {"kernels": "triton", "device": str(device), "max_draft_rows": 24}
    settings |= {"max_num_seqs": 4, "max_batched_tokens": 24}
    return tiny_models.tiny_core(copy.deepcopy(model_of(family)), **settings | changes)


def requests(policies):
    chosen = random.Random(0)
    return [
        request(
            str(i),
            [chosen.randrange(VOCAB) for _ in range(length)],
            SamplingParams(max_tokens=LENGTH, ignore_eos=True, **mix),
            policy,
            seed=i,
        )
        for i, (length, mix, policy) in enumerate(zip((5, 27, 11), MIXES, policies, strict=True))
    ]


@functools.cache
def expected_of(family) -> dict[str, list[int]]:
    core = make_core(family, "cpu", kernels="torch")
    answers = run(core, requests(["off"] * 3), concurrency=1)
    return {name: answer.tokens for name, answer in answers.items()}


def mislead(core, family) -> None:
    asked = requests(POLICIES)
    truth = {one.id: [*one.prompt_token_ids, *expected_of(family)[one.id]] for one in asked}
    core.drafter = Adversary(VOCAB, 6, False, truth)


def tokens(answers) -> dict[str, list[int]]:
    return {name: answer.tokens for name, answer in answers.items()}


def test_every_kernel_equals_its_reference(device) -> None:
    findings = list(check_all(choose_backend(device, "triton"), device))
    assert len(findings) >= 14
    assert [one for one in findings if not one.is_right] == []


@pytest.mark.parametrize("graphs", [0, 3])
def test_a_tiny_engine_says_what_the_cpu_says(device, graphs) -> None:
    expected = tiny_engine.plain_answers()
    settings = {"device": str(device), "kernels": "triton", "cuda_graphs": graphs}
    found = tiny_engine.compare("", expected, **settings)
    assert found.is_right, found
    assert found.accepted > 2


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "gpt2"])
def test_model_families_under_graphs(device, family) -> None:
    core = make_core(family, device, cuda_graphs=2)
    captured = [bucket.graph.is_captured for bucket in core.target._buckets]
    assert captured == [device.type == "cuda"] * 2
    mislead(core, family)
    answers = run(core, requests(POLICIES))
    assert tokens(answers) == expected_of(family)
    assert sum(one.last.speculation.num_accepted_draft_tokens for one in answers.values()) > 2


@pytest.mark.parametrize("version", [1, 3])
def test_a_head_drafts_what_it_drafts_on_the_cpu(device, tmp_path, version) -> None:
    sizes = {"vocab_size": VOCAB, "max_position_embeddings": 64}
    if version == 1:
        config = plain.config_v1(hidden_size=WIDTH, head_dim=16, **sizes)
        plain.write_v1(tmp_path, config, plain.weights_v1(config))
    else:
        sizes |= {"target_hidden_size": WIDTH, "draft_vocab_size": 200, "layer_ids": (0, 1, 1)}
        config = plain.config(**sizes)
        write_head(tmp_path, config, plain.weights(config))
    changes = {"drafter": "eagle", "head": str(tmp_path), "draft_sources": ""}
    drafted = []
    for where, kernels in (("cpu", "torch"), (device, "triton")):
        core = make_core("llama", where, kernels=kernels, cuda_graphs=2, **changes)
        drafted.append(watch_trees(core))
        assert tokens(run(core, requests(POLICIES))) == expected_of("llama")
    assert [bucket.graph.is_captured for bucket in core.drafter.passes._buckets] == [
        device.type == "cuda"
    ] * 2
    assert sum(map(len, drafted[0])) > 20
    assert drafted[0] == drafted[1]


def watch_trees(core) -> list[list[int]]:
    """The tokens of all drafts from now on."""
    seen: list[list[int]] = []
    propose = core.drafter.propose

    def watched(contexts, gate=None):
        trees = propose(contexts, gate)
        seen.extend(tree.token_ids_T.tolist() for tree in trees)
        return trees

    core.drafter.propose = watched
    return seen


def test_a_step_waits_for_nothing_but_its_outcome(device) -> None:
    """torch refuses, between laying a step out and reading its outcome, whatever would wait."""
    core = make_core("llama", device, cuda_graphs=0)
    mislead(core, "llama")
    make_outcome = core.target._run

    def watched(*args):
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            return make_outcome(*args)
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")

    core.target._run = watched
    assert tokens(run(core, requests(POLICIES))) == expected_of("llama")


def test_a_profile_has_the_buckets_of_the_graphs(device) -> None:
    core = make_core("llama", device, cuda_graphs=3)
    config = EngineConfig(dtype="float32", device=str(device), kernels="triton", cuda_graphs=3)
    effort = Effort(budget_seconds=2.0, max_rows=8, contexts=(32,), quick=True)
    profile = measure_profile(core, config, effort, show_progress=False)
    assert profile.verify.buckets == core.target.buckets
    seconds = profile.cost().verify_seconds
    assert seconds(1, 32) == seconds(profile.verify.buckets[0], 32) > 0
    assert ("device" in profile.provenance) == (device.type == "cuda")


def test_the_doctor_finds_nothing_wrong(device, tmp_path, capsys) -> None:
    """On a CUDA device also the default model, and the first table of times."""
    file = tmp_path / "report.json"
    assert doctor.main(["--device", device.type, "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["wrong"] == []
    assert ("timings" in report) == (device.type == "cuda")
    print(capsys.readouterr().out)
