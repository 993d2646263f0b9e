"""One scatter for keys and values together: what a CPU runs."""

from __future__ import annotations

from torch import Tensor


def kv_write(kv_cache_S2KD: Tensor, kv_N2KD: Tensor, slot_N: Tensor) -> None:
    """As the package says, where no slot is -1."""
    kv_cache_S2KD.index_copy_(0, slot_N, kv_N2KD.to(kv_cache_S2KD.dtype))
