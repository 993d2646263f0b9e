"""EAGLE heads once more, in float64 and nothing but formulas; and small random ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import tiny_models
import torch
from safetensors.torch import save_file

from cast_drafters.base import TargetParts
from cast_drafters.eagle.checkpoint import write_head
from cast_drafters.eagle.config import HeadConfig

VOCAB, WIDTH, LAYERS = 61, 24, 6


def config(**changes) -> HeadConfig:
    base = HeadConfig(
        version=3,
        hidden_size=32,
        target_hidden_size=WIDTH,
        intermediate_size=40,
        num_heads=4,
        num_key_heads=2,
        head_dim=8,
        vocab_size=VOCAB,
        draft_vocab_size=29,
        rms_norm_eps=1e-5,
        rope_theta=1000.0,
        rope_scaling=None,
        max_position_embeddings=64,
        hidden_act="silu",
        layer_ids=(1, 3, 5),
        has_fc_bias=False,
        has_qkv_bias=False,
        norm_before_residual=False,
        norm_before_fc=False,
        fc_norm=False,
        norm_output=False,
    )
    return dataclasses.replace(base, **changes)


def weights(c: HeadConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    size, wide, key = c.hidden_size, c.num_heads * c.head_dim, c.num_key_heads * c.head_dim
    attention, mlp = "layer.self_attn", "layer.mlp"
    shapes = {
        "fc.weight": (size, 3 * c.target_hidden_size),
        f"{attention}.q_proj.weight": (wide, 2 * size),
        f"{attention}.k_proj.weight": (key, 2 * size),
        f"{attention}.v_proj.weight": (key, 2 * size),
        f"{attention}.o_proj.weight": (size, wide),
        f"{mlp}.gate_proj.weight": (c.intermediate_size, size),
        f"{mlp}.up_proj.weight": (c.intermediate_size, size),
        f"{mlp}.down_proj.weight": (size, c.intermediate_size),
        "lm_head.weight": (c.draft_vocab_size, size),
        "embed_tokens.weight": (c.vocab_size, size),
    }
    if c.has_qkv_bias:
        shapes |= {f"{attention}.{p}_proj.bias": (wide if p == "q" else key,) for p in "qkv"}
    tensors = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    norms = ["layer.hidden_norm", "layer.input_layernorm", "layer.post_attention_layernorm", "norm"]
    tensors |= {f"{name}.weight": torch.rand(size) + 0.5 for name in norms}
    if c.fc_norm:
        tensors |= {f"fc_norm.{i}.weight": torch.rand(c.target_hidden_size) + 0.5 for i in range(3)}
    if c.norm_before_fc:
        tensors["input_norm.weight"] = torch.rand(3 * c.target_hidden_size) + 0.5
    chosen = torch.randperm(c.vocab_size)[: c.draft_vocab_size].sort().values
    return tensors | {"draft_token_ids": chosen}


def config_v1(**changes) -> HeadConfig:
    sizes = {
        "hidden_size": WIDTH,
        "head_dim": 6,
        "vocab_size": VOCAB,
        "has_fc_bias": True,
    } | changes
    sizes |= {"target_hidden_size": sizes["hidden_size"], "draft_vocab_size": sizes["vocab_size"]}
    return config(version=1, layer_ids=(), **sizes)


def weights_v1(c: HeadConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Without the target's embeddings, which published files may hold too."""
    torch.manual_seed(seed)
    size, wide, key = c.hidden_size, c.num_heads * c.head_dim, c.num_key_heads * c.head_dim
    attention, mlp = "layer.self_attn", "layer.mlp"
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (size, 2 * size),
        f"{attention}.q_proj.weight": (wide, size),
        f"{attention}.k_proj.weight": (key, size),
        f"{attention}.v_proj.weight": (key, size),
        f"{attention}.o_proj.weight": (size, wide),
        f"{mlp}.gate_proj.weight": (c.intermediate_size, size),
        f"{mlp}.up_proj.weight": (c.intermediate_size, size),
        f"{mlp}.down_proj.weight": (size, c.intermediate_size),
    }
    if c.has_fc_bias:
        shapes["fc.bias"] = (size,)
    if c.has_qkv_bias:
        shapes |= {f"{attention}.{p}_proj.bias": (wide if p == "q" else key,) for p in "qkv"}
    tensors = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    tensors["layer.post_attention_layernorm.weight"] = torch.rand(size) + 0.5
    return tensors | {"draft_token_ids": torch.arange(c.vocab_size)}


def write_v1(directory: Path, c: HeadConfig, tensors: dict[str, torch.Tensor], **more) -> Path:
    """The files as EAGLE-1's authors publish them; `more` goes into config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    published = {
        name.replace("layer.", "layers.0.", 1): tensor.contiguous()
        for name, tensor in tensors.items()
        if name != "draft_token_ids"
    }
    save_file(published, directory / "model.safetensors")
    document = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_key_heads,
        "num_hidden_layers": 1,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": c.rope_scaling,
        "vocab_size": c.vocab_size,
        "hidden_act": c.hidden_act,
        "max_position_embeddings": c.max_position_embeddings,
        "bias": c.has_fc_bias,
        "qkv_bias": c.has_qkv_bias,
    }
    (directory / "config.json").write_text(json.dumps(document | more))
    return directory


def target(num_slots: int = 96, dtype=torch.float32) -> TargetParts:
    torch.manual_seed(1)
    embedding = torch.randn(VOCAB, WIDTH)
    return TargetParts("tiny", None, embedding, LAYERS, num_slots, dtype, torch.device("cpu"))


class Plain:
    """EAGLE-3."""

    def __init__(self, c: HeadConfig, tensors: dict[str, torch.Tensor]) -> None:
        self.c = c
        self.w = {name: t.double() for name, t in tensors.items() if name != "draft_token_ids"}

    def norm(self, x, name):
        return x / (x.square().mean(-1, keepdim=True) + self.c.rms_norm_eps).sqrt() * self.w[name]

    def fuse(self, taps):
        """Three [N, E] -> [N, H]."""
        taps = [t.double() for t in taps]
        if self.c.fc_norm:
            taps = [self.norm(t, f"fc_norm.{i}.weight") for i, t in enumerate(taps)]
        x = torch.cat(taps, -1)
        if self.c.norm_before_fc:
            x = self.norm(x, "input_norm.weight")
        return x @ self.w["fc.weight"].T

    def rotate(self, x, positions):
        half = self.c.head_dim // 2
        if self.c.rope_scaling is not None:
            assert self.c.rope_scaling["type"] == "linear"
            positions = positions / self.c.rope_scaling["factor"]
        out = torch.empty_like(x)
        for d in range(half):
            angle = positions.double() * self.c.rope_theta ** (-2 * d / self.c.head_dim)
            cos, sin = angle.cos()[:, None], angle.sin()[:, None]
            low, high = x[..., d], x[..., d + half]
            out[..., d] = low * cos - high * sin
            out[..., d + half] = high * cos + low * sin
        return out

    def forward(self, tokens, hidden, positions, sees):
        """Rows see the rows that `sees` [N, N] says. Returns [N, H], before the final norm."""
        embedded = self.w["embed_tokens.weight"][tokens]
        normed = self.norm(hidden, "layer.hidden_norm.weight")
        x = torch.cat([self.norm(embedded, "layer.input_layernorm.weight"), normed], -1)
        residual = normed if self.c.norm_before_residual else hidden
        return self.add_mlp(residual + self.attend(x, positions, sees))

    def attend(self, x, positions, sees):
        c = self.c
        q, k, v = (self.project(x, part) for part in "qkv")
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        rows = []
        for n in range(len(x)):
            heads = []
            for h in range(c.num_heads):
                kv = h // (c.num_heads // c.num_key_heads)
                score = k[:, kv] @ q[n, h] / c.head_dim**0.5
                heads.append(score.masked_fill(~sees[n], -torch.inf).softmax(0) @ v[:, kv])
            rows.append(torch.cat(heads))
        return torch.stack(rows) @ self.w["layer.self_attn.o_proj.weight"].T

    def add_mlp(self, residual):
        x = self.norm(residual, "layer.post_attention_layernorm.weight")
        gate = torch.nn.functional.silu(x @ self.w["layer.mlp.gate_proj.weight"].T)
        up = x @ self.w["layer.mlp.up_proj.weight"].T
        return residual + (gate * up) @ self.w["layer.mlp.down_proj.weight"].T

    def project(self, x, part):
        y = x @ self.w[f"layer.self_attn.{part}_proj.weight"].T
        bias = self.w.get(f"layer.self_attn.{part}_proj.bias")
        return (y if bias is None else y + bias).unflatten(-1, (-1, self.c.head_dim))

    def log_probs(self, out):
        return (self.norm(out, "norm.weight") @ self.w["lm_head.weight"].T).log_softmax(-1)


class PlainV1(Plain):
    """EAGLE-1 and -2, with what they take from their target; `hidden` is after its final norm."""

    def __init__(self, c, tensors, embedding, lm_head) -> None:
        super().__init__(c, tensors)
        self.embedding, self.lm_head = embedding.double(), lm_head.double()

    def fuse(self, taps):
        [last] = taps
        return last.double()

    def forward(self, tokens, hidden, positions, sees):
        x = torch.cat([self.embedding[tokens], hidden], -1) @ self.w["fc.weight"].T
        x = x + self.w["fc.bias"] if self.c.has_fc_bias else x
        return self.add_mlp(x + self.attend(x, positions, sees))

    def log_probs(self, out):
        return (out @ self.lm_head.T).log_softmax(-1)


def save_for_tiny_models(directory: Path) -> Path:
    """A random head that fits `tiny_models`, as files; returns the directory."""
    sizes = {"target_hidden_size": tiny_models.SIZES["hidden_size"], "draft_vocab_size": 50}
    fitting = config(**sizes, vocab_size=tiny_models.VOCAB_SIZE, layer_ids=(0, 1, 1))
    write_head(directory, fitting, weights(fitting))
    return directory
