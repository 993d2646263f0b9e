"""A backend that reads fixed arrays as the kernels do, made of references: fast enough on a CPU.

It reads every array back before it computes, so it cannot be captured; what it is good for is whole
engines in seconds, with padding and all.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cast_kernels.backend import TORCH
from cast_kernels.kv_commit.reference import kv_commit
from cast_kernels.kv_write.reference import kv_write
from cast_kernels.tree_attention import AttentionPlan, SequenceRows, tree_attention
from cast_kernels.tree_attention.paged import WORD_BITS, PagedBatch


def rows_of(batch: PagedBatch) -> list[SequenceRows]:
    """What was laid into the arrays; sequences without rows are left out."""
    cu_rows, cu_tree = batch.cu_rows_B1.tolist(), batch.cu_tree_B1.tolist()
    bits = np.arange(batch.mask_NW.shape[1] * WORD_BITS)
    found = []
    for i, context in enumerate(batch.context_B.tolist()):
        num_rows, columns = cu_rows[i + 1] - cu_rows[i], cu_tree[i + 1] - cu_tree[i]
        if not num_rows:
            continue
        words_RW = batch.mask_NW[cu_rows[i] : cu_rows[i + 1]].numpy()
        words = np.repeat(words_RW, WORD_BITS, axis=1) >> (bits % WORD_BITS)
        depths_C = np.zeros(columns, np.int64)
        depths_C[-num_rows:] = batch.depth_T[cu_rows[i] : cu_rows[i + 1]].numpy()
        key = np.arange(context + columns)
        page_L = batch.page_BP[i].numpy()[key // batch.page_size].astype(np.int64)
        slots_L = page_L * batch.page_size + key % batch.page_size
        found.append(SequenceRows(slots_L, (words[:, :columns] & 1).astype(np.bool_), depths_C))
    return found


def attend(q_NHD, kv_cache_S2KD, batch, **options):
    assert len(batch.mask_NW) == len(q_NHD), "rows and masks of one step"
    plan = AttentionPlan(rows_of(batch), q_NHD.device)
    return tree_attention(q_NHD, kv_cache_S2KD, plan, **options)


PAGED = replace(
    TORCH,
    name="paged reference",
    is_static=True,
    max_moves=16,
    plan=lambda rows, device: PagedBatch.from_rows(rows, 1, device),
    tree_attention=attend,
    kv_write=lambda cache, kv, slots: kv_write(cache, kv[:, 0], kv[:, 1], slots),
    kv_commit=kv_commit,
)
