"""The whole engine on Triton's kernels, interpreted or on a device and there in CUDA graphs: its
tokens are those of the CPU backend."""

from __future__ import annotations

import functools
import random

import plain_head as plain
import pytest
import tiny_models
from engine.driving import Adversary, request, run

from cast_drafters.eagle.checkpoint import write_head
from cast_server.engine.device_pass import DevicePass
from cast_server.engine.request import SamplingParams
from cast_server.errors import ConfigError, UnsupportedModelError

VOCAB = tiny_models.VOCAB_SIZE
SHARED = 9  # tokens that every other prompt begins with: two full blocks and a bit
LENGTH = 8
MIXES = (
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"temperature": 0.7, "top_k": 40, "presence_penalty": 0.5},
    {"temperature": 1.2},
)
POLICIES = {"trees": ("tree:6",) * 4, "mixed": ("off", "chain:4", "tree:6", "tree:3")}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@functools.cache
def prompts() -> list[list[int]]:
    chosen = random.Random(0)
    shared = [chosen.randrange(VOCAB) for _ in range(SHARED)]
    tails = [[chosen.randrange(VOCAB) for _ in range(n)] for n in (5, 1, 20, 4)]
    return [shared + tail if i % 2 == 0 else tail for i, tail in enumerate(tails)]


def requests(policies):
    return [
        request(
            str(i),
            prompts()[i],
            SamplingParams(max_tokens=LENGTH, ignore_eos=True, **mix),
            policy,
            seed=100 + i,
        )
        for i, (mix, policy) in enumerate(zip(MIXES, policies, strict=True))
    ]


@functools.cache
def expected_of(family) -> list[list[int]]:
    """Plain decoding on the CPU backend, one by one."""
    core = tiny_models.tiny_core(tiny_models.model_of(family))
    answers = run(core, requests(["off"] * 4), concurrency=1)
    return [answers[str(i)].tokens for i in range(4)]


def make_core(family, device, **changes):
    settings = {"kernels": "triton", "max_draft_rows": 24, "max_num_seqs": 4}
    settings |= {"max_batched_tokens": 24, "device": str(device)}
    core = tiny_models.tiny_core(tiny_models.model_of(family), **settings | changes)
    assert isinstance(core.target, DevicePass)
    recorded = [bucket.graph.is_captured for bucket in core.target._buckets]
    assert recorded == [device.type == "cuda"] * changes.get("cuda_graphs", 12)
    return core


def mislead(core, family, nodes=6) -> None:
    truth = {str(i): prompts()[i] + tokens for i, tokens in enumerate(expected_of(family))}
    core.drafter = Adversary(VOCAB, nodes, False, truth)


def accepted(answers) -> int:
    return sum(a.last.speculation.num_accepted_draft_tokens for a in answers.values())


@pytest.mark.parametrize("buckets", [0, 3])
def test_chunks_prefix_hits_chains_and_trees(buckets, device) -> None:
    core = make_core("llama", device, cuda_graphs=buckets)
    assert core.target.buckets == ((8, 16, 24) if buckets else ())
    mislead(core, "llama")
    for policies in POLICIES.values():
        answers = run(core, requests(policies))
        assert [answers[str(i)].tokens for i in range(4)] == expected_of("llama")
        assert accepted(answers) > 6
        assert any(one.last.num_cached_tokens >= SHARED - 1 for one in answers.values())


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_windows_and_layers_that_are_not_fused(family, device) -> None:
    core = make_core(family, device, cuda_graphs=1)
    mislead(core, family)
    answers = run(core, requests(POLICIES["trees"])[:2])
    assert [answers[str(i)].tokens for i in range(2)] == expected_of(family)[:2]
    assert accepted(answers) > 2


@pytest.mark.parametrize("version", [1, 3])
def test_a_head_drafts_as_on_the_cpu_backend(tmp_path, version, device) -> None:
    write_random(tmp_path, version)
    drafted = {}
    for kernels, where in (("torch", "cpu"), ("triton", device)):
        core = make_core_with_head(tmp_path, kernels, where)
        core.grown = None  # level by level, as the policy decides on the host
        trees = watch_trees(core)
        answers = run(core, requests(POLICIES["mixed"]))
        assert [answers[str(i)].tokens for i in range(4)] == expected_of("llama")
        drafted[kernels] = trees
    recorded = [bucket.graph.is_captured for bucket in core.drafter.passes._buckets]
    assert recorded == [device.type == "cuda"] * 2
    assert sum(len(tokens) for _, tokens, _ in drafted["torch"]) > 30
    for one, other in zip(drafted["torch"], drafted["triton"], strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], abs=1e-3)


def write_random(directory, version) -> None:
    sizes = {"vocab_size": VOCAB, "max_position_embeddings": 64}
    width = tiny_models.SIZES["hidden_size"]
    if version == 1:
        config = plain.config_v1(hidden_size=width, head_dim=16, has_qkv_bias=True, **sizes)
        plain.write_v1(directory, config, plain.weights_v1(config))
    else:
        sizes |= {"target_hidden_size": width, "draft_vocab_size": 200, "layer_ids": (0, 1, 1)}
        config = plain.config(**sizes, norm_before_fc=True)
        write_head(directory, config, plain.weights(config))


def make_core_with_head(directory, kernels, device):
    changes = {"drafter": "eagle", "head": str(directory), "draft_sources": "", "cuda_graphs": 2}
    settings = {"kernels": kernels, "max_draft_rows": 24, "max_num_seqs": 4}
    settings |= {"device": str(device)}
    return tiny_models.tiny_core(tiny_models.model_of("llama"), **settings | changes)


def watch_trees(core) -> list[tuple[int, list[int], list[float]]]:
    """What an engine's drafter answers from now on: where, tokens, the head's own confidences."""
    seen: list[tuple[int, list[int], list[float]]] = []
    propose = core.drafter.propose

    def watched(contexts, gate=None):
        trees = propose(contexts, gate)
        for one, tree in zip(contexts, trees, strict=True):
            seen.append(
                (len(one.token_ids), tree.token_ids_T.tolist(), tree.confidences_T.tolist())
            )
        return trees

    core.drafter.propose = watched
    return seen


def test_what_kernels_cannot_do_is_a_sentence(monkeypatch) -> None:
    model = tiny_models.randomised(lambda: tiny_models.llama(head_dim=512))
    with pytest.raises(
        UnsupportedModelError, match=r"size 512, .* at most 256: use --kernels torch"
    ):
        tiny_models.tiny_core(model, kernels="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ConfigError, match=r"--kernels triton: .*set TRITON_INTERPRET=1"):
        make_core("llama", "cpu")
