from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class HeadConfig:
    version: int
    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    num_heads: int
    num_key_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None
    max_position_embeddings: int
    hidden_act: str
    layer_ids: tuple[int, ...]
    has_fc_bias: bool
    has_qkv_bias: bool
    norm_before_residual: bool
    norm_before_fc: bool
    fc_norm: bool
    norm_output: bool


@dataclass(frozen=True, slots=True)
class TargetShape:
    hidden_size: int
    vocab_size: int
    num_layers: int
