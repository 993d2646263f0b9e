"""An EAGLE-3 head in plain torch: what is trained, and what the served one is compared with.

EAGLE-3 (Li et al. 2025): three of the target's hidden states are fused into one; a single decoder
layer reads it beside the embedding of the token that came next, and its output both predicts the
token after that and stands in for the hidden state where the target has not been yet.

Shape suffixes: N positions of several sequences side by side, E the target's width, H the head's,
V the draft vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cast_drafters.eagle.config import HeadConfig


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of some rows, [N, K, D]."""

    k_NKD: Tensor
    v_NKD: Tensor


class RMSNorm(nn.RMSNorm):
    """In float32, whatever autocast makes of the input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention over embedding and hidden state side by side (2H wide)."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.num_heads, self.num_key_heads = config.num_heads, config.num_key_heads
        wide = 2 * config.hidden_size
        self.q_proj = nn.Linear(wide, self.num_heads * self.head_dim, bias=config.has_qkv_bias)
        self.k_proj = nn.Linear(wide, self.num_key_heads * self.head_dim, bias=config.has_qkv_bias)
        self.v_proj = nn.Linear(wide, self.num_key_heads * self.head_dim, bias=config.has_qkv_bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=False)
        powers = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        self.register_buffer("frequencies", config.rope_theta**-powers, persistent=False)

    def project(self, x_NW: Tensor, positions_N: Tensor) -> tuple[Tensor, KeyValues]:
        q_NHD = self._rotate(self.q_proj(x_NW).unflatten(-1, (-1, self.head_dim)), positions_N)
        k_NKD = self._rotate(self.k_proj(x_NW).unflatten(-1, (-1, self.head_dim)), positions_N)
        return q_NHD, KeyValues(k_NKD, self.v_proj(x_NW).unflatten(-1, (-1, self.head_dim)))

    def _rotate(self, x_NHD: Tensor, positions_N: Tensor) -> Tensor:
        assert isinstance(self.frequencies, Tensor)
        angle_N1D = torch.outer(positions_N.float(), self.frequencies).repeat(1, 2).unsqueeze(1)
        low, high = x_NHD.float().chunk(2, -1)
        turned = torch.cat([-high, low], -1)
        return (x_NHD.float() * angle_N1D.cos() + turned * angle_N1D.sin()).to(x_NHD.dtype)


class Mlp(nn.Module):
    """The gated MLP of the Llama family."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Layer(nn.Module):
    """The head's one decoder layer."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.hidden_norm = RMSNorm(size, eps)
        self.input_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)


class EagleHead(nn.Module):
    """Parameters have the canonical names of `checkpoint.read_head`."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.fc = nn.Linear(3 * config.target_hidden_size, size, bias=False)
        self.layer = Layer(config)
        self.norm = RMSNorm(size, config.rms_norm_eps)
        self.lm_head = nn.Linear(size, config.draft_vocab_size, bias=False)

    def begin(
        self, embedded_NH: Tensor, hidden_NH: Tensor, positions_N: Tensor
    ) -> tuple[Tensor, KeyValues]:
        """Queries [N, heads, D], keys and values of rows that read `hidden` and the next token."""
        layer = self.layer
        x_NW = torch.cat([layer.input_layernorm(embedded_NH), layer.hidden_norm(hidden_NH)], -1)
        q_NHD, kv = layer.self_attn.project(x_NW, positions_N)
        return q_NHD, kv

    def end(self, hidden_NH: Tensor, attended_NHD: Tensor) -> Tensor:
        """The next hidden state [N, H], from what attention found."""
        layer = self.layer
        hidden_NH = hidden_NH + layer.self_attn.o_proj(attended_NHD.flatten(1))
        out: Tensor = hidden_NH + layer.mlp(layer.post_attention_layernorm(hidden_NH))
        return out

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """[N, V], of the hidden states that `end` returns."""
        out: Tensor = self.lm_head(self.norm(hidden_NH))
        return out
