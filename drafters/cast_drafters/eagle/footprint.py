"""What a head takes in memory once it is served, told before it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from cast_drafters.eagle.config import HeadConfig
from cast_kernels.linear import can_widen, wide_bytes

_EMBEDDING: Final = "embed_tokens.weight"
_LARGE: Final = ("layer.mlp.gate_proj.weight", "layer.mlp.up_proj.weight", "lm_head.weight")


def head_bytes(
    config: HeadConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
) -> int:
    """Of its weights, as `ServedHead` packs them where usual weights are."""
    return sum(
        _bytes(name, tensor, dtype, device)
        for name, tensor in tensors.items()
        # an EAGLE-1 head embeds by the target's rows
        if name != "draft_token_ids" and (name != _EMBEDDING or config.version == 3)
    )


def _bytes(name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> int:
    is_wide = can_widen(dtype, device)
    if tensor.dim() == 1:
        return 4 * tensor.numel()
    if name == _EMBEDDING:
        return tensor.numel() * tensor.itemsize
    if name in _LARGE and is_wide:
        return tensor.numel()
    if name == "lm_head.weight" or (is_wide and name != "fc.weight"):
        return wide_bytes(tensor.shape, dtype, device)
    return tensor.numel() * dtype.itemsize


def slot_bytes(config: HeadConfig, dtype: torch.dtype) -> int:
    """Of one slot: the head's key and value, and a hidden state in float32."""
    return 2 * config.num_key_heads * config.head_dim * dtype.itemsize + 4 * config.hidden_size
