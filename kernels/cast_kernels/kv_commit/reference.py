"""Gather, then scatter."""

from __future__ import annotations

import torch
from torch import Tensor


def kv_commit(kv_cache_YS2KD: Tensor, source: Tensor, target: Tensor) -> None:
    """See the package."""
    if kv_cache_YS2KD.dtype.itemsize == 1:
        kv_cache_YS2KD = kv_cache_YS2KD.view(torch.uint8)  # torch cannot index float8
    if source.ndim == 2:
        is_move = source >= 0
        source, target = source[is_move], target[is_move]
    kv_cache_YS2KD.index_copy_(1, target, kv_cache_YS2KD.index_select(1, source))
