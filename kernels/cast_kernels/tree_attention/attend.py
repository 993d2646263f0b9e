"""Attention of a tile of queries to a run of keys: one tile of keys after the other.

Online softmax as in FlashAttention-2 (arXiv:2307.08691).
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0913

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend(
    state,
    begin,
    end,
    q_MD,
    rows,
    keys,
    options,
    IS_TREE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
    PAGE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """The state (accumulator, top, sum) after the keys from begin to end; scores are in bits.

    Every row of the tile must have a mask and a position; the last key before `end` is read even
    where its weight is 0, and must be finite.
    """
    out_MD, top_M, sum_M = state
    k_ptr, v_ptr, page_ptr, mask_ptr, depth_ptr, slot_stride, context = keys
    scale, softcap, window = options
    o_L, o_D = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_D)
    m_1D = (o_D < HEAD_DIM)[None, :]
    for start in range(begin, end, BLOCK_L):
        # Behind the end the last key is read again: a weight of 0 is cheaper than masked loads.
        o_key_L = tl.minimum(start + o_L, end - 1)
        page_L = tl.load(page_ptr + o_key_L // PAGE).to(tl.int64)
        o_slot_L = (page_L * PAGE + o_key_L % PAGE) * slot_stride
        k_LD = tl.load(k_ptr + o_slot_L[:, None] + o_D[None, :], m_1D, other=0.0)
        v_LD = tl.load(v_ptr + o_slot_L[:, None] + o_D[None, :], m_1D, other=0.0)
        k_LD = k_LD.to(q_MD.dtype)
        if IS_INTERPRETED:  # Triton's interpreter multiplies bfloat16 as if it were uint16
            score_ML = tl.dot(q_MD.to(tl.float32), tl.trans(k_LD.to(tl.float32)))
        else:
            score_ML = tl.dot(q_MD, tl.trans(k_LD), input_precision="ieee")
        score_ML *= scale
        if HAS_SOFTCAP:
            score_ML = softcap * (2 * tl.sigmoid(2 / softcap * score_ML) - 1)
        tree = mask_ptr, depth_ptr, context
        score_ML = _mask(score_ML, start, end, rows, tree, window, IS_TREE, HAS_WINDOW, BLOCK_L)
        new_top_M = tl.maximum(top_M, tl.max(score_ML, 1))
        # A row that has seen nothing yet has no top: 0 in its place keeps NaN out.
        base_M = tl.where(new_top_M > -float("inf"), new_top_M, 0.0)
        weight_ML = tl.exp2(score_ML - base_M[:, None])
        shrink_M = tl.exp2(top_M - base_M)
        sum_M = sum_M * shrink_M + tl.sum(weight_ML, 1)
        # Not before: what is converted from float8 early stays in registers until here.
        weight_ML, v_LD = weight_ML.to(q_MD.dtype), v_LD.to(q_MD.dtype)
        if IS_INTERPRETED:
            part_MD = tl.dot(weight_ML.to(tl.float32), v_LD.to(tl.float32))
            out_MD = out_MD * shrink_M[:, None] + part_MD
        else:
            out_MD = tl.dot(weight_ML, v_LD, out_MD * shrink_M[:, None], input_precision="ieee")
        top_M = new_top_M
    return out_MD, top_M, sum_M


@triton.jit
def _mask(
    score_ML,
    start,
    end,
    rows,
    tree,
    window,
    IS_TREE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Scores of the keys from `start` on, in bits; -inf where a row does not see the key."""
    position_M, o_mask_M = rows
    mask_ptr, depth_ptr, context = tree
    o_L = tl.arange(0, BLOCK_L)
    if IS_TREE:  # no bit is set from `end` on
        column = start - context  # a tile never crosses a word: 64 is a multiple of BLOCK_L
        word_M = tl.load(mask_ptr + o_mask_M + column // 64) >> (column % 64)
        if BLOCK_L <= 32:
            word_M = word_M.to(tl.int32)
        m_ML = ((word_M[:, None] >> o_L[None, :]) & 1) != 0
    else:
        m_ML = (start + o_L < end)[None, :]
    if HAS_WINDOW:
        position_L = tl.minimum(start + o_L, end - 1)
        if IS_TREE:
            position_L = context + tl.load(depth_ptr + position_L - context)
        is_near_ML = position_L[None, :] > (position_M - window)[:, None]
        score_ML = tl.where(is_near_ML, score_ML, -float("inf"))
    return tl.where(m_ML, score_ML * 1.4426950408889634, -float("inf"))
