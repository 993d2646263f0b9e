"""Move after move out of a cache that nobody writes: a loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cast_kernels.parity import expect_equal


def sample(
    batch: int,
    moves: int,
    layers: int,
    key_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """A cache, sources and targets; each move overwrites the next one's source."""
    generator = torch.Generator().manual_seed(seed)
    slots = (moves + 1) * batch + 40
    shape = (layers, slots, 2, key_heads, head_dim)
    chains = torch.randperm(slots, generator=generator)[: batch * (moves + 1)].view(batch, -1)
    cache_YS2KD = torch.randn(shape, generator=generator).to(dtype)
    return cache_YS2KD, chains[:, :-1].clone(), chains[:, 1:].clone()


def check(
    function: Callable[[Tensor, Tensor, Tensor], object],
    cache_YS2KD: Tensor,
    source: Tensor,
    target: Tensor,
) -> None:
    """Leaves the cache as it is. Raises `MismatchError`."""
    moved, expected = cache_YS2KD.clone(), cache_YS2KD.clone()
    function(moved, source, target)
    moves = zip(source.flatten().tolist(), target.flatten().tolist(), strict=True)
    for one, other in moves:
        if one >= 0:
            expected[:, other] = cache_YS2KD[:, one]
    expect_equal("cache", moved, expected)
