"""Model families at random: the engine's tokens are those of transformers' own `generate`."""

from __future__ import annotations

import copy
import random

import pytest
import tiny_models
import torch
import transformers
from engine.driving import Adversary, request, run

from cast_server.engine.fusion import FusedDecoderLayer
from cast_server.engine.request import SamplingParams
from cast_server.errors import UnsupportedModelError

LENGTH = 40
FUSED = ("llama", "qwen3", "qwen2", "mistral")
UNFUSED = ("gemma3", "gpt2", "granite")
PROMPT_LENGTHS = (3, 37, 90)  # the window of those that have one is 12, a step has 32 rows
GREEDY = SamplingParams(max_tokens=LENGTH, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    chosen = random.Random(0)
    return [[chosen.randrange(tiny_models.VOCAB_SIZE) for _ in range(n)] for n in PROMPT_LENGTHS]


def make_model(family):
    return tiny_models.randomised(getattr(tiny_models, family))


def generate(model, prompt) -> list[int]:
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LENGTH
        )
    return out[0, len(prompt) :].tolist()


def decoder_layers(core) -> list:
    base = core.runner.model.base_model
    return list(base.h if hasattr(base, "h") else base.layers)


@pytest.mark.parametrize("family", FUSED + UNFUSED)
def test_tokens_are_those_of_generate(family, prompts) -> None:
    model = make_model(family)
    reference = copy.deepcopy(model)
    expected = [generate(reference, prompt) for prompt in prompts]
    assert len({token for answer in expected for token in answer}) > 20, "too dull to prove a thing"
    core = tiny_models.tiny_core(model, max_batched_tokens=32, max_num_seqs=4)
    truth = {str(i): p + e for i, (p, e) in enumerate(zip(prompts, expected, strict=True))}
    is_fused = [isinstance(layer, FusedDecoderLayer) for layer in decoder_layers(core)]
    assert is_fused == [family in FUSED] * len(is_fused)
    for policy, nodes, deep in (("off", 0, False), ("tree:14", 14, False), ("tree:9", 9, True)):
        core.drafter = Adversary(tiny_models.VOCAB_SIZE, nodes, deep, truth)
        answers = run(core, [request(str(i), p, GREEDY, policy) for i, p in enumerate(prompts)])
        assert [answers[str(i)].tokens for i in range(len(prompts))] == expected, policy
        accepted = sum(a.last.speculation.num_accepted_draft_tokens for a in answers.values())
        assert accepted > 30 if nodes else accepted == 0


@pytest.mark.parametrize("family", FUSED)
def test_fused_layers_change_no_logit(family, prompts, monkeypatch) -> None:
    model = make_model(family)
    fused = tiny_models.tiny_core(copy.deepcopy(model))
    monkeypatch.setattr("cast_server.engine.model_runner.fuse_layers", lambda _: 0)
    plain = tiny_models.tiny_core(model)
    assert all(isinstance(layer, FusedDecoderLayer) for layer in decoder_layers(fused))
    assert not any(isinstance(layer, FusedDecoderLayer) for layer in decoder_layers(plain))
    params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True, logprobs=8)
    requests = [request(str(i), p, params) for i, p in enumerate(prompts)]
    left, right = run(fused, requests), run(plain, requests)
    for name, answer in left.items():
        for one, two in zip(answer.logprobs, right[name].logprobs, strict=True):
            assert one.token_id == two.token_id
            assert [p for _, p in one.top] == pytest.approx([p for _, p in two.top], abs=2e-4)


def test_bfloat16_models_run(prompts) -> None:
    core = tiny_models.tiny_core(make_model("qwen3").to(torch.bfloat16), dtype="bfloat16")
    answers = run(core, [request(str(i), p, GREEDY, "tree:8") for i, p in enumerate(prompts)])
    assert [len(answer.tokens) for answer in answers.values()] == [LENGTH] * 3


def t5():
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    )


def bloom():
    return transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4)
    )


def mamba():
    return transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=64, hidden_size=32, state_size=4, num_hidden_layers=1)
    )


def gpt_oss():
    config = transformers.GptOssConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        rope_scaling=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        max_position_embeddings=256,
        **tiny_models.NO_SPECIAL_TOKENS,
    )
    return transformers.GptOssForCausalLM(config)


REFUSED = {
    t5: "encoder-decoder",
    bloom: "AttentionInterface",
    mamba: "AttentionInterface",
    gpt_oss: "sinks",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "reason"), REFUSED.items(), ids=lambda x: getattr(x, "__name__", "")
)
def test_unsupported_models_are_refused_at_load(make, reason) -> None:
    with pytest.raises(UnsupportedModelError, match=reason) as refusal:
        tiny_models.tiny_core(make())
    assert str(refusal.value).endswith(".")
