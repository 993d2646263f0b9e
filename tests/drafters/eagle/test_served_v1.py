"""EAGLE-1/2 heads: against formulas in float64, and in an engine, from their published files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import plain_head as plain
import pytest
import tiny_models
import torch
from engine.driving import request, run
from safetensors.torch import save_file

from cast_drafters.base import TargetParts
from cast_drafters.eagle.served import HeadRows
from cast_drafters.eagle.served_v1 import ServedHeadV1
from cast_kernels.tree_attention import SequenceRows
from cast_server.engine.request import SamplingParams

WIDTH = 64


def published(bias: bool = True) -> dict[str, torch.Tensor]:
    """A random head under the names of the published files."""
    torch.manual_seed(4)
    shapes = {
        "fc.weight": (WIDTH, 2 * WIDTH),
        "layers.0.self_attn.q_proj.weight": (64, WIDTH),
        "layers.0.self_attn.k_proj.weight": (32, WIDTH),
        "layers.0.self_attn.v_proj.weight": (32, WIDTH),
        "layers.0.self_attn.o_proj.weight": (WIDTH, 64),
        "layers.0.mlp.gate_proj.weight": (48, WIDTH),
        "layers.0.mlp.up_proj.weight": (48, WIDTH),
        "layers.0.mlp.down_proj.weight": (WIDTH, 48),
    }
    tensors = {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}
    tensors["layers.0.post_attention_layernorm.weight"] = torch.rand(WIDTH) + 0.5
    return tensors | ({"fc.bias": torch.randn(WIDTH)} if bias else {})


def write(directory: Path, bias: bool = True) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(published(bias), directory / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-5,
        "vocab_size": tiny_models.VOCAB_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "bias": bias,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


class PlainV1(plain.Plain):
    """The same layer in formulas; attention is inherited, by giving it joined rows."""

    def __init__(self, c, tensors, embedding):
        super().__init__(c, tensors)
        self.embedding = embedding.double()

    def forward(self, tokens, hidden, positions, sees):
        c = self.c
        joined = torch.cat([self.embedding[tokens], hidden.double()], -1)
        x = joined @ self.w["fc.weight"].T + self.w["fc.bias"]
        q, k, v = (self.project(x, part) for part in "qkv")
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        rows = []
        for n in range(len(tokens)):
            heads = []
            for h in range(c.num_heads):
                kv = h // (c.num_heads // c.num_key_heads)
                score = k[:, kv] @ q[n, h] / c.head_dim**0.5
                heads.append(score.masked_fill(~sees[n], -torch.inf).softmax(0) @ v[:, kv])
            rows.append(torch.cat(heads))
        x = x + torch.stack(rows) @ self.w["layer.self_attn.o_proj.weight"].T
        y = self.norm(x, "layer.post_attention_layernorm.weight")
        gate = torch.nn.functional.silu(y @ self.w["layer.mlp.gate_proj.weight"].T)
        up = y @ self.w["layer.mlp.up_proj.weight"].T
        return x + (gate * up) @ self.w["layer.mlp.down_proj.weight"].T


def test_equals_the_formulas() -> None:
    model = tiny_models.randomised(tiny_models.llama)
    embedding = model.get_input_embeddings().weight.detach()
    tensors = {
        name.replace("layers.0.", "layer."): tensor for name, tensor in published().items()
    } | {"draft_token_ids": torch.arange(tiny_models.VOCAB_SIZE)}
    config = dataclasses.replace(
        plain.config(),
        version=1,
        hidden_size=WIDTH,
        target_hidden_size=WIDTH,
        intermediate_size=48,
        head_dim=16,
        vocab_size=tiny_models.VOCAB_SIZE,
        draft_vocab_size=tiny_models.VOCAB_SIZE,
        layer_ids=(),
        has_fc_bias=True,
    )
    target = TargetParts("tiny", model, embedding, 2, 32, torch.float32, torch.device("cpu"))
    head = ServedHeadV1(config, tensors, target, 8)
    assert head.layer_ids == (2,)
    tokens = torch.randint(tiny_models.VOCAB_SIZE, (9,))
    last = torch.randn(9, WIDTH)
    with torch.inference_mode():
        head.fuse(torch.arange(9), [last])
        normed = model.get_decoder().norm(last)
        chain = SequenceRows(np.arange(1, 9), np.tri(8, dtype=np.bool_), np.arange(8))
        rows = HeadRows(tokens[1:].numpy(), np.arange(8), np.arange(1, 9), [chain])
        out = head.forward(rows, head.fused(np.arange(8)))
        logits = out.double() @ model.get_output_embeddings().weight.double().T
        log_probs = head.log_probs(out)
    right = PlainV1(config, tensors, embedding)
    sees = torch.ones(8, 8, dtype=torch.bool).tril()
    expected = right.forward(tokens[1:], normed[:-1], torch.arange(8), sees)
    assert float((out.double() - expected).norm() / expected.norm()) < 1e-5
    assert torch.allclose(log_probs.double(), logits.log_softmax(-1), atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_changes_no_token_in_an_engine(tmp_path: Path, bias: bool, temperature: float) -> None:
    model = tiny_models.randomised(tiny_models.llama)
    head = str(write(tmp_path / "head", bias))
    core = tiny_models.tiny_core(model, drafter="eagle", head=head, draft_sources="")
    params = SamplingParams(max_tokens=24, temperature=temperature)
    prompts = [list(range(5 + i, 25 + 3 * i)) for i in range(4)]
    answers = {
        policy: run(core, [request(str(i), p, params, policy) for i, p in enumerate(prompts)])
        for policy in ("off", "tree:8", "chain:3")
    }
    for name, plain_answer in answers["off"].items():
        for policy in ("tree:8", "chain:3"):
            assert answers[policy][name].tokens == plain_answer.tokens
            assert answers[policy][name].last.speculation.num_draft_tokens > 0


def test_rope_scaling_kinds() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from cast_drafters.eagle.served import _scaled

    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, **scaling},
    )
    right, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain_frequencies = 10000.0 ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    mine = _scaled(plain_frequencies, {"type": "llama3", **scaling})
    assert torch.allclose(mine.float(), right.float(), rtol=1e-5)
    assert torch.equal(
        _scaled(plain_frequencies, {"type": "linear", "factor": 2.0}) * 2, plain_frequencies
    )
    with pytest.raises(ValueError, match="'yarn'; only linear and llama3"):
        _scaled(plain_frequencies, {"type": "yarn"})
