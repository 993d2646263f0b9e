"""Row after row, number after number: a loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cast_kernels.parity import expect_equal


def sample(
    rows: int, slots: int, key_heads: int, head_dim: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A cache, keys, values and a slot for each row."""
    generator = torch.Generator().manual_seed(seed)
    cache_S2KD = torch.full((slots, 2, key_heads, head_dim), 7.0).to(dtype)
    shape = (2, rows, key_heads, head_dim)
    k_NKD, v_NKD = torch.randn(shape, generator=generator).to(dtype).unbind(0)
    return cache_S2KD, k_NKD, v_NKD, torch.randperm(slots, generator=generator)[:rows]


def check(
    function: Callable[..., object],
    cache_S2KD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    slot_N: Tensor,
    scale_2K: Tensor | None = None,
) -> None:
    """Leaves the cache as it is. Raises `MismatchError`."""
    cache_S2KD, expected_S2KD = cache_S2KD.clone(), cache_S2KD.clone()
    function(cache_S2KD, k_NKD, v_NKD, slot_N, scale_2K)
    for row, slot in enumerate(slot_N.tolist()):
        for part, x_NKD in enumerate((k_NKD, v_NKD)):
            if slot >= 0:
                scale_K = None if scale_2K is None else scale_2K[part]
                expected_S2KD[slot, part] = _stored(x_NKD[row], scale_K, cache_S2KD.dtype)
    expect_equal("cache", cache_S2KD, expected_S2KD)


def _stored(x_KD: Tensor, scale_K: Tensor | None, dtype: torch.dtype) -> Tensor:
    if scale_K is not None:
        most = torch.finfo(dtype).max
        x_KD = (x_KD.float() / scale_K[:, None]).clamp(-most, most)
    return x_KD.to(dtype)
