"""Tree attention, one sequence at a time in float64: the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cast_kernels.tree_attention.plan import SequenceRows


def tree_attention_reference(
    q_NHD: Tensor,
    kv_cache_S2KD: Tensor,
    rows: Sequence[SequenceRows],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """See the package. Returns [N, H, D] in the dtype of q."""
    out_NHD = torch.zeros_like(q_NHD)
    begin = 0
    for one in rows:
        end = begin + one.num_rows
        slots = torch.from_numpy(one.slots_L).to(q_NHD.device)
        kv_L2KD = kv_cache_S2KD[slots].double()
        q_RHD = q_NHD[begin:end].double()
        group = q_NHD.shape[1] // kv_cache_S2KD.shape[2]
        k_LHD, v_LHD = kv_L2KD.repeat_interleave(group, dim=2).unbind(1)
        score_HRL = torch.einsum("rhd,lhd->hrl", q_RHD, k_LHD) * scale
        if softcap is not None:
            score_HRL = softcap * torch.tanh(score_HRL / softcap)
        visible_RL = torch.from_numpy(one.visible(window)).to(q_NHD.device)
        weight_HRL = score_HRL.masked_fill(~visible_RL, -torch.inf).softmax(-1)
        out_NHD[begin:end] = torch.einsum("hrl,lhd->rhd", weight_HRL, v_LHD).to(q_NHD.dtype)
        begin = end
    return out_NHD
