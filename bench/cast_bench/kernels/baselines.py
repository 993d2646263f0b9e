"""torch's own attention for the same queries and keys.

Keys and values are gathered before, each sequence's in one piece, which a paged cache does not give
for nothing: times are torch's at its best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from cast_kernels.tree_attention import SequenceRows


def attention_baselines(
    cache_S2KD: Tensor, rows: Sequence[SequenceRows], scale: float
) -> Mapping[str, Callable[[Tensor, Tensor], Tensor]]:
    """Functions of queries and cache, of which they do not read the second. All sequences have as
    many rows and keys."""
    device, batch = cache_S2KD.device, len(rows)
    slots = torch.from_numpy(np.concatenate([one.slots_L for one in rows])).to(device)
    kv_BL2KD = cache_S2KD[slots].view(batch, -1, *cache_S2KD.shape[1:])
    k_BKLD, v_BKLD = (one.transpose(1, 2).contiguous() for one in kv_BL2KD.unbind(2))
    seen_BRL = torch.from_numpy(np.stack([one.visible(None) for one in rows])).to(device)

    def sdpa(q_NHD: Tensor, _: Tensor) -> Tensor:
        out_BHRD = F.scaled_dot_product_attention(
            _by_head(q_NHD, batch),
            k_BKLD,
            v_BKLD,
            attn_mask=seen_BRL[:, None],
            scale=scale,
            enable_gqa=True,
        )
        return _by_row(out_BHRD)

    flex = _flex(k_BKLD, v_BKLD, seen_BRL, scale)
    return MappingProxyType({"torch-sdpa": sdpa, "torch-flex": flex})


def _flex(
    k_BKLD: Tensor, v_BKLD: Tensor, seen_BRL: Tensor, scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Compiled at its first call, which takes long and fails where there is no compiler."""
    batch, num_rows, num_keys = seen_BRL.shape

    @cache
    def compiled() -> Any:
        mask = create_block_mask(
            lambda b, _, row, key: seen_BRL[b, row, key],
            batch,
            None,
            num_rows,
            num_keys,
            device=str(seen_BRL.device),
        )
        attend: Any = torch.compile(flex_attention, dynamic=False)
        return partial(attend, block_mask=mask, scale=scale, enable_gqa=True)

    def flex(q_NHD: Tensor, _: Tensor) -> Tensor:
        return _by_row(compiled()(_by_head(q_NHD, batch), k_BKLD, v_BKLD))

    return flex


def _by_head(q_NHD: Tensor, batch: int) -> Tensor:
    return q_NHD.view(batch, -1, *q_NHD.shape[1:]).transpose(1, 2)


def _by_row(out_BHRD: Tensor) -> Tensor:
    return out_BHRD.transpose(1, 2).flatten(0, 1)
