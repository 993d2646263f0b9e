"""What a head takes in memory once it is served, told before it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from cast_drafters.eagle.config import HeadConfig

_LARGE: Final = ("layer.mlp.gate_proj.weight", "layer.mlp.up_proj.weight", "lm_head.weight")


def head_bytes(
    config: HeadConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype, is_wide: bool
) -> int:
    """Of its weights. `is_wide`: products are taken in float32, the largest of int8 weights."""
    total = 0
    for name, tensor in tensors.items():
        if name == "draft_token_ids" or (name == "embed_tokens.weight" and config.version == 1):
            continue  # a list of its own; the target's is used
        if tensor.dim() == 1:
            width = 4
        elif name == "embed_tokens.weight":
            width = tensor.itemsize
        elif name in _LARGE and is_wide:
            width = 1
        else:
            width = 4 if name == "lm_head.weight" else dtype.itemsize
        total += tensor.numel() * width
    return total


def slot_bytes(config: HeadConfig, dtype: torch.dtype) -> int:
    """Of one slot: the head's key and value, and a hidden state in float32."""
    return 2 * config.num_key_heads * config.head_dim * dtype.itemsize + 4 * config.hidden_size
