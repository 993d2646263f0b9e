"""Tree attention over paged keys: split-KV, with query rows and heads packed into one matrix tile.

Grid: ((B + 1) * row tiles, K, splits), then `merge`; the tiles behind the last sequence copy idle
rows. Tile: BLOCK_M pairs (row, query head of one key head), so that the keys of
a head are read once for all of them, against BLOCK_L keys. The splits share the context; the tree's
keys, the only ones with a mask, belong to the last. Bytes moved: see `tiling.traffic`.
Online softmax as in FlashAttention-2 (arXiv:2307.08691), splits as in Flash-Decoding.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0913, PLR0915

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from cast_kernels.compilation import Compilation
from cast_kernels.tree_attention.merge import merge
from cast_kernels.tree_attention.paged import PagedBatch
from cast_kernels.tree_attention.tiling import (
    CONFIGS,
    FLOAT32,
    Config,
    choose_config,
    choose_splits,
)

MAX_REGISTERS: Final = 255  # without a limit ptxas spills a little to fit one more block


def tree_attention(
    q_NHD: Tensor,
    kv_cache_S2KD: Tensor,
    batch: PagedBatch,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    kv_scale_2K: Tensor | None = None,
    num_splits: int | None = None,
    config: Config | None = None,
) -> Tensor:
    """See the package. Returns [N, H, D] in the dtype of q.

    Last dimensions contiguous. kv_scale_2K: float32, what a stored key (0) or value (1) of each
    head is to be multiplied with; for caches in float8.
    """
    (num_rows, heads, head_dim), key_heads = q_NHD.shape, kv_cache_S2KD.shape[2]
    assert heads % key_heads == 0, (heads, key_heads)
    assert q_NHD.stride(2) == kv_cache_S2KD.stride(3) == 1, (q_NHD.stride(), kv_cache_S2KD.stride())
    group = heads // key_heads
    if config is None:
        config = choose_config(batch.max_rows * group, head_dim, q_NHD.dtype)
    tiles = max(1, triton.cdiv(batch.max_rows * group, config.block_m))
    if num_splits is None:
        num_splits = choose_splits(
            programs=batch.size * tiles * key_heads,
            processors=_processors(q_NHD.device),
            context=batch.max_context,
            packed=batch.max_rows * group,
        )
    out_NHD = torch.empty_like(q_NHD)
    if num_rows == 0:
        return out_NHD
    partial_ZNHD, lse_ZNH = out_NHD, out_NHD
    if num_splits > 1:
        shape = (num_splits, num_rows, heads)
        partial_ZNHD = q_NHD.new_empty((*shape, head_dim), dtype=torch.float32)
        lse_ZNH = q_NHD.new_empty(shape, dtype=torch.float32)
    k_S, v_S = kv_cache_S2KD.unbind(1)
    options = {"maxnreg": MAX_REGISTERS} if _is_nvidia(q_NHD.device) else {}
    _split_kernel[((batch.size + 1) * tiles, key_heads, num_splits)](
        q_NHD,
        k_S,
        v_S,
        kv_scale_2K,
        batch.cu_rows_B1,
        batch.cu_tree_B1,
        batch.context_B,
        batch.page_BP,
        batch.mask_NW,
        batch.depth_T,
        out_NHD,
        partial_ZNHD,
        lse_ZNH,
        batch.size,
        num_rows,
        heads,
        group,
        q_NHD.stride(0),
        q_NHD.stride(1),
        kv_cache_S2KD.stride(0),
        kv_cache_S2KD.stride(2),
        out_NHD.stride(0),
        out_NHD.stride(1),
        batch.page_BP.stride(0),
        batch.mask_NW.stride(0),
        scale,
        0.0 if softcap is None else softcap,
        0 if window is None else window,
        HAS_SOFTCAP=softcap is not None,
        HAS_WINDOW=window is not None,
        HAS_SCALE=kv_scale_2K is not None,
        IS_SPLIT=num_splits > 1,
        IS_INTERPRETED=q_NHD.device.type == "cpu",
        PAGE=batch.page_size,
        HEAD_DIM=head_dim,
        BLOCK_D=max(16, triton.next_power_of_2(head_dim)),
        BLOCK_M=config.block_m,
        BLOCK_L=config.block_l,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **options,
    )
    if num_splits > 1:
        merge(partial_ZNHD, lse_ZNH, batch.cu_rows_B1, out_NHD)
    return out_NHD


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _is_nvidia(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None


@triton.jit
def _attend(
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
    """The state (accumulator, top, sum) after the keys from begin to end; scores are in bits."""
    out_MD, top_M, sum_M = state
    position_M, o_mask_M, m_M = rows
    k_ptr, v_ptr, page_ptr, mask_ptr, depth_ptr, slot_stride, context = keys
    scale, softcap, window = options
    o_L, o_D = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_D)
    m_D = o_D < HEAD_DIM
    for start in range(begin, end, BLOCK_L):
        o_key_L = start + o_L
        m_L = o_key_L < end
        page_L = tl.load(page_ptr + o_key_L // PAGE, m_L, other=0).to(tl.int64)
        o_slot_L = (page_L * PAGE + o_key_L % PAGE) * slot_stride
        m_LD = m_L[:, None] & m_D[None, :]
        k_LD = tl.load(k_ptr + o_slot_L[:, None] + o_D[None, :], m_LD, other=0.0)
        v_LD = tl.load(v_ptr + o_slot_L[:, None] + o_D[None, :], m_LD, other=0.0)
        k_LD, v_LD = k_LD.to(q_MD.dtype), v_LD.to(q_MD.dtype)
        if IS_INTERPRETED:  # Triton's interpreter multiplies bfloat16 as if it were uint16
            score_ML = tl.dot(q_MD.to(tl.float32), tl.trans(k_LD.to(tl.float32)))
        else:
            score_ML = tl.dot(q_MD, tl.trans(k_LD), input_precision="ieee")
        score_ML *= scale
        if HAS_SOFTCAP:
            score_ML = softcap * (2 * tl.sigmoid(2 / softcap * score_ML) - 1)
        m_ML = m_M[:, None] & m_L[None, :]
        if IS_TREE:
            column = start - context  # a tile never crosses a word: 64 is a multiple of BLOCK_L
            word_M = tl.load(mask_ptr + o_mask_M + column // 64, m_M, other=0)
            m_ML = m_ML & (((word_M[:, None] >> (column % 64 + o_L)[None, :]) & 1) != 0)
        if HAS_WINDOW:
            position_L = o_key_L
            if IS_TREE:
                depth_L = tl.load(depth_ptr + start - context + o_L, m_L, other=0)
                position_L = context + depth_L
            m_ML = m_ML & (position_L[None, :] > (position_M - window)[:, None])
        score_ML = tl.where(m_ML, score_ML * 1.4426950408889634, -float("inf"))
        new_top_M = tl.maximum(top_M, tl.max(score_ML, 1))
        # A row that has seen nothing yet has no top: 0 in its place keeps NaN out.
        base_M = tl.where(new_top_M > -float("inf"), new_top_M, 0.0)
        weight_ML = tl.exp2(score_ML - base_M[:, None])
        shrink_M = tl.exp2(top_M - base_M)
        sum_M = sum_M * shrink_M + tl.sum(weight_ML, 1)
        weight_ML = weight_ML.to(q_MD.dtype)
        if IS_INTERPRETED:
            part_MD = tl.dot(weight_ML.to(tl.float32), v_LD.to(tl.float32))
            out_MD = out_MD * shrink_M[:, None] + part_MD
        else:
            out_MD = tl.dot(weight_ML, v_LD, out_MD * shrink_M[:, None], input_precision="ieee")
        top_M = new_top_M
    return out_MD, top_M, sum_M


@triton.jit
def _copy_idle(q_ptr, out_ptr, rows, heads, strides, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    o_D = tl.arange(0, BLOCK_D)
    begin, end, step = rows
    first_head, end_head = heads
    q_row, q_head, out_row, out_head = strides
    for row in range(begin, end, step):
        o_row = tl.full([], 0, tl.int64) + row
        for head in range(first_head, end_head):
            q_D = tl.load(q_ptr + o_row * q_row + head * q_head + o_D, o_D < HEAD_DIM)
            tl.store(out_ptr + o_row * out_row + head * out_head + o_D, q_D, o_D < HEAD_DIM)


@triton.jit
def _split_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    kv_scale_ptr,
    cu_rows_ptr,
    cu_tree_ptr,
    context_ptr,
    page_ptr,
    mask_ptr,
    depth_ptr,
    out_ptr,
    partial_ptr,
    lse_ptr,
    batch,
    num_rows,
    heads,
    group,
    q_row,
    q_head,
    slot_stride,
    key_stride,
    out_row,
    out_head,
    page_stride,
    mask_stride,
    scale,
    softcap,
    window,
    HAS_SOFTCAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
    PAGE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    tiles = tl.num_programs(0) // (batch + 1)
    i_sequence, i_tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    i_key, i_split = tl.program_id(1), tl.program_id(2)
    first_row = tl.load(cu_rows_ptr + i_sequence)
    if i_sequence == batch:
        if i_split == 0:
            strides = q_row, q_head, out_row, out_head
            idle = first_row + i_tile, num_rows, tiles
            own = i_key * group, (i_key + 1) * group
            _copy_idle(q_ptr, out_ptr, idle, own, strides, HEAD_DIM, BLOCK_D)
        return
    rows = tl.load(cu_rows_ptr + i_sequence + 1) - first_row
    if i_tile * BLOCK_M >= rows * group:
        return

    o_M, o_D = i_tile * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    m_M = o_M < rows * group
    row_M, head_M = (first_row + o_M // group).to(tl.int64), i_key * group + o_M % group
    m_MD = m_M[:, None] & (o_D < HEAD_DIM)[None, :]
    o_q_M = row_M * q_row + head_M * q_head
    q_MD = tl.load(q_ptr + o_q_M[:, None] + o_D[None, :], m_MD, other=0.0)

    first_column = tl.load(cu_tree_ptr + i_sequence)
    columns = tl.load(cu_tree_ptr + i_sequence + 1) - first_column
    context = tl.load(context_ptr + i_sequence)
    column_M = columns - rows + o_M // group
    # No row sees a key behind its own, which ends the causal loop of a prefill early.
    last_row = (i_tile * BLOCK_M + BLOCK_M - 1) // group
    end_column = tl.minimum(columns, columns - rows + last_row + 1)
    position_M = context + column_M
    lowest = 0
    if HAS_WINDOW:
        position_M = context + tl.load(depth_ptr + first_column + column_M, m_M, other=0)
        nearest = tl.min(tl.where(m_M, position_M, 0x7FFFFFFF))
        lowest = tl.minimum(tl.maximum(nearest - window + 1, 0), context)
    key_scale = scale
    if HAS_SCALE:
        key_scale *= tl.load(kv_scale_ptr + i_key)

    splits = tl.num_programs(2)
    share = tl.cdiv(tl.cdiv(context - lowest, splits), BLOCK_L) * BLOCK_L
    begin = tl.minimum(lowest + i_split * share, context)
    end = tl.minimum(begin + share, context)
    out_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    state = out_MD, tl.full([BLOCK_M], -float("inf"), tl.float32), tl.zeros([BLOCK_M], tl.float32)
    o_key = i_key.to(tl.int64) * key_stride
    page_ptr += i_sequence.to(tl.int64) * page_stride
    depth_ptr += first_column
    keys = k_ptr + o_key, v_ptr + o_key, page_ptr, mask_ptr, depth_ptr, slot_stride, context
    row_state = position_M, row_M * mask_stride, m_M
    options = key_scale, softcap, window
    state = _attend(
        state,
        begin,
        end,
        q_MD,
        row_state,
        keys,
        options,
        False,
        HAS_SOFTCAP,
        HAS_WINDOW,
        IS_INTERPRETED,
        PAGE,
        HEAD_DIM,
        BLOCK_D,
        BLOCK_L,
    )
    if i_split == splits - 1:
        state = _attend(
            state,
            context,
            context + end_column,
            q_MD,
            row_state,
            keys,
            options,
            True,
            HAS_SOFTCAP,
            HAS_WINDOW,
            IS_INTERPRETED,
            PAGE,
            HEAD_DIM,
            BLOCK_D,
            BLOCK_L,
        )
    out_MD, top_M, sum_M = state
    is_blind_M = sum_M == 0  # nothing of this split to see
    sum_M = tl.where(is_blind_M, 1.0, sum_M)
    out_MD /= sum_M[:, None]
    if HAS_SCALE:
        out_MD *= tl.load(kv_scale_ptr + tl.num_programs(1) + i_key)
    if IS_SPLIT:
        o_part_M = (i_split.to(tl.int64) * num_rows + row_M) * heads + head_M
        lse_M = tl.where(is_blind_M, -float("inf"), top_M + tl.log2(sum_M))
        tl.store(lse_ptr + o_part_M, lse_M, m_M)
        tl.store(partial_ptr + o_part_M[:, None] * HEAD_DIM + o_D[None, :], out_MD, m_MD)
    else:
        o_out_M = row_M * out_row + head_M * out_head
        tl.store(out_ptr + o_out_M[:, None] + o_D[None, :], out_MD, m_MD)


def compilations() -> Iterator[Compilation]:
    """Every configuration in 16 bits, plain and with all options, then caches in float8."""
    for config in CONFIGS:
        yield _compilation(config, "bf16", "bf16", has_options=False)
        yield _compilation(config, "bf16", "bf16", has_options=True)
        yield _compilation(config, "bf16", "fp8e5", has_options=False)
    yield _compilation(CONFIGS[1], "bf16", "fp8e4nv", has_options=False, beside=("sm_80",))
    yield _compilation(FLOAT32, "fp32", "fp32", has_options=False)


def _compilation(
    config: Config, q: str, kv: str, *, has_options: bool, beside: tuple[str, ...] = ()
) -> Compilation:
    is_scaled = kv.startswith("fp8")
    constexprs: dict[str, Any] = {
        "HAS_SOFTCAP": has_options,
        "HAS_WINDOW": has_options,
        "HAS_SCALE": is_scaled,
        "IS_SPLIT": True,
        "IS_INTERPRETED": False,
        "PAGE": 16,
        "HEAD_DIM": config.max_head_dim,
        "BLOCK_D": config.max_head_dim,
        "BLOCK_M": config.block_m,
        "BLOCK_L": config.block_l,
    }
    signature = {"q_ptr": f"*{q}", "k_ptr": f"*{kv}", "v_ptr": f"*{kv}"}
    signature["kv_scale_ptr"] = "*fp32" if is_scaled else "constexpr"
    if not is_scaled:
        constexprs["kv_scale_ptr"] = None
    integers = ("cu_rows_ptr", "cu_tree_ptr", "context_ptr", "page_ptr")
    signature |= dict.fromkeys(integers, "*i32") | {"mask_ptr": "*i64", "depth_ptr": "*i32"}
    signature |= {"out_ptr": f"*{q}", "partial_ptr": "*fp32", "lse_ptr": "*fp32"}
    signature |= dict.fromkeys(("batch", "num_rows", "heads", "group"), "i32")
    strides = ("q_row", "q_head", "slot_stride", "key_stride", "out_row", "out_head")
    signature |= dict.fromkeys((*strides, "page_stride", "mask_stride"), "i64")
    signature |= {"scale": "fp32", "softcap": "fp32", "window": "i32"}
    signature |= dict.fromkeys((k for k in constexprs if k.isupper()), "constexpr")
    options = "_options" if has_options else ""
    name = f"tree_attention_{kv}_{config.block_m}_{config.max_head_dim}{options}"
    stages = config.num_stages
    return Compilation(
        name,
        _split_kernel,
        signature,
        constexprs,
        config.num_warps,
        stages,
        aligned=strides,
        max_registers=MAX_REGISTERS,
        beside=beside,
    )
