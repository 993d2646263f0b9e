"""Tree attention by gathering the paged keys and calling torch's fused attention.

The query heads of one key head become further rows of it, so that keys are read once and never
repeated. Traffic: the gather reads and writes every visible key and value once more than a paged
kernel would; on a CPU the copy stays in cache and costs less than attention over strided views.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cast_kernels.tree_attention.plan import AttentionPlan, Group


def tree_attention(
    q_NHD: Tensor,
    kv_cache_S2KD: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """See the package. Returns [N, H, D] in the dtype of q."""
    heads_per_key = q_NHD.shape[1] // kv_cache_S2KD.shape[2]
    masks = plan.masks(window, heads_per_key, q_NHD.dtype)
    if len(plan.groups) == 1 and plan.groups[0].rows is None:
        idle = q_NHD[plan.num_rows :]
        q_NHD = q_NHD[: plan.num_rows]
        out_NHD = _attend(q_NHD, kv_cache_S2KD, plan.groups[0], masks[0], scale, softcap)
        return torch.cat([out_NHD, idle]) if len(idle) else out_NHD
    out_NHD = q_NHD.clone()
    for group, mask in zip(plan.groups, masks, strict=True):
        if group.rows is None or group.real_rows is None:
            q = q_NHD[group.begin : group.end]
            out = _attend(q, kv_cache_S2KD, group, mask, scale, softcap)
            out_NHD[group.begin : group.end] = out
        else:
            out = _attend(q_NHD[group.rows], kv_cache_S2KD, group, mask, scale, softcap)
            out_NHD[group.rows[group.real_rows]] = out[group.real_rows]
    return out_NHD


def _attend(
    q_NHD: Tensor,
    kv_cache_S2KD: Tensor,
    group: Group,
    mask_B1RL: Tensor,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """q_NHD holds B * R rows of one group."""
    batch, num_keys = len(group.members), group.num_keys
    num_slots, _, key_heads, head_dim = kv_cache_S2KD.shape
    heads_per_key = q_NHD.shape[1] // key_heads
    kv = kv_cache_S2KD.view(num_slots, -1).index_select(0, group.slots)
    k_BLKD, v_BLKD = kv.view(batch, num_keys, 2, key_heads, head_dim).unbind(2)
    q_BRKGD = q_NHD.reshape(batch, group.num_rows, key_heads, heads_per_key, head_dim)
    q_BKRD = q_BRKGD.permute(0, 2, 3, 1, 4).reshape(batch, key_heads, -1, head_dim)
    k_BKLD, v_BKLD = k_BLKD.transpose(1, 2), v_BLKD.transpose(1, 2)
    if softcap is None:
        out_BKRD = F.scaled_dot_product_attention(
            q_BKRD, k_BKLD, v_BKLD, attn_mask=mask_B1RL, scale=scale
        )
    else:
        score = (q_BKRD @ k_BKLD.transpose(2, 3)).float() * scale
        weight = (softcap * torch.tanh(score / softcap) + mask_B1RL).softmax(-1)
        out_BKRD = weight.to(v_BKLD.dtype) @ v_BKLD
    out_BKGRD = out_BKRD.view(batch, key_heads, heads_per_key, group.num_rows, head_dim)
    return out_BKGRD.permute(0, 3, 1, 2, 4).reshape(q_NHD.shape)
