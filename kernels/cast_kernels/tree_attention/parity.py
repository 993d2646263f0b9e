"""Near attention in float64, over a cache that is NaN wherever nothing was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_kernels import parity
from cast_kernels.tree_attention.plan import SequenceRows
from cast_kernels.tree_attention.reference import tree_attention_reference


def make_rows(
    rng: np.random.Generator, slots_L: NDArray[np.int64], chunk: int, nodes: int
) -> tuple[SequenceRows, list[int]]:
    """A chunk of a prompt with a random tree behind it; also every row's parent row."""
    parents = [*range(-1, chunk - 1)]
    parents += [int(rng.integers(chunk - 1, row)) for row in range(chunk, chunk + nodes)]
    mask_RR = np.eye(len(parents), dtype=np.bool_)
    depths_R = np.zeros(len(parents), np.int64)
    for row, parent in enumerate(parents):
        if parent >= 0:
            mask_RR[row] |= mask_RR[parent]
            depths_R[row] = depths_R[parent] + 1
    return SequenceRows(slots_L, mask_RR, depths_R), parents


def sample(
    shape: Sequence[tuple[int, int, int]],
    *,
    key_heads: int = 2,
    group: int = 2,
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    page: int = 16,
    idle: int = 0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, list[SequenceRows]]:
    """Queries, cache and rows. `shape`: for each sequence its tokens of context, the rows of a
    prompt's chunk or of its root, and the nodes of a tree behind the last of them."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    lengths = [sum(one) for one in shape]
    pages = rng.permutation(sum(-(-length // page) for length in lengths) + 3)
    cache_S2KD = torch.full((len(pages) * page, 2, key_heads, head_dim), torch.nan, dtype=dtype)
    rows, begin = [], 0
    for one, length in zip(shape, lengths, strict=True):
        own = pages[begin : begin + -(-length // page)]
        begin += len(own)
        slots_L = (own[:, None] * page + np.arange(page)).reshape(-1)[:length].astype(np.int64)
        numbers = torch.randn(length, 2, key_heads, head_dim, generator=generator)
        cache_S2KD[torch.from_numpy(slots_L)] = numbers.to(dtype)
        rows.append(make_rows(rng, slots_L, *one[1:])[0])
    num_rows = sum(one.num_rows for one in rows) + idle
    q_NHD = torch.randn(num_rows, key_heads * group, head_dim, generator=generator)
    return q_NHD.to(dtype), cache_S2KD, rows


def relative_error(
    out_NHD: Tensor, q_NHD: Tensor, cache_S2KD: Tensor, rows: Sequence[SequenceRows], **options: Any
) -> float:
    """Against the reference with the same options."""
    right_NHD = tree_attention_reference(q_NHD.double(), cache_S2KD, rows, **options)
    return parity.relative_error(out_NHD, right_NHD)


def check(
    attend: Callable[[Tensor, Tensor], Tensor],
    q_NHD: Tensor,
    cache_S2KD: Tensor,
    rows: Sequence[SequenceRows],
    *,
    scale: float,
) -> None:
    """Raises `MismatchError`."""
    out_NHD = attend(q_NHD, cache_S2KD)
    right_NHD = tree_attention_reference(q_NHD.double(), cache_S2KD, rows, scale=scale)
    parity.expect_near("outputs", out_NHD, right_NHD, parity.MOST[q_NHD.dtype])
