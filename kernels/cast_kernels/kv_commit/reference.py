"""Gather, then scatter."""

from __future__ import annotations

from torch import Tensor


def kv_commit(kv_cache_YS2KD: Tensor, source: Tensor, target: Tensor) -> None:
    """See the package."""
    kv_cache_YS2KD.index_copy_(1, target, kv_cache_YS2KD.index_select(1, source))
