"""Divide, round, scatter."""

from __future__ import annotations

import torch
from torch import Tensor


def kv_write(
    kv_cache_S2KD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    slot_N: Tensor,
    kv_scale_2K: Tensor | None = None,
) -> None:
    """See the package."""
    kv_N2KD = torch.stack([k_NKD, v_NKD], 1)
    if kv_scale_2K is not None:
        kv_N2KD = kv_N2KD.float() / kv_scale_2K[:, :, None]
        most = torch.finfo(kv_cache_S2KD.dtype).max
        kv_N2KD = kv_N2KD.clamp(-most, most)
    is_written_N = slot_N >= 0
    kv_cache_S2KD[slot_N[is_written_N]] = kv_N2KD[is_written_N].to(kv_cache_S2KD.dtype)
