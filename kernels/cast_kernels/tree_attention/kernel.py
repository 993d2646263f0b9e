"""Tree attention over paged keys: split-KV, with query rows and heads packed into one matrix tile.

Grid: ((B + 1) * row tiles, K, splits), then `merge`; the tiles behind the last sequence copy idle
rows. Tile: BLOCK_M pairs (row, query head of one key head), so that the keys of a head are read
once for all of them, against BLOCK_L keys. The splits, as in Flash-Decoding, share the context; the
tree's keys, the only ones with a mask, belong to the last. Bytes moved: see `tiling.traffic`.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0913, PLR0915

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cast_kernels.compilation import Compilation
from cast_kernels.registers import max_registers, register_options
from cast_kernels.tree_attention.attend import attend
from cast_kernels.tree_attention.merge import merge
from cast_kernels.tree_attention.paged import PagedBatch
from cast_kernels.tree_attention.tiling import (
    CONFIGS,
    FLOAT32,
    Config,
    choose_config,
    choose_splits,
)


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
        **register_options(q_NHD.device, config.num_warps),
    )
    if num_splits > 1:
        merge(partial_ZNHD, lse_ZNH, batch.cu_rows_B1, out_NHD)
    return out_NHD


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


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
    m_1D = (o_D < HEAD_DIM)[None, :]
    o_M = tl.minimum(o_M, rows * group - 1)  # behind the last pair that one is computed again
    # As a pair is row * group + head, an offset needs no remainder.
    row_M, o_M, first_head = (o_M // group).to(tl.int64), o_M.to(tl.int64), i_key * group
    o_q = first_row.to(tl.int64) * q_row + first_head * q_head
    o_q_M = o_q + row_M * (q_row - group * q_head) + o_M * q_head
    q_MD = tl.load(q_ptr + o_q_M[:, None] + o_D[None, :], m_1D, other=0.0)

    first_column = tl.load(cu_tree_ptr + i_sequence)
    columns = tl.load(cu_tree_ptr + i_sequence + 1) - first_column
    context = tl.load(context_ptr + i_sequence)
    column_M = columns - rows + row_M.to(tl.int32)
    # No row sees a key behind its own, which ends the causal loop of a prefill early.
    last_row = (i_tile * BLOCK_M + BLOCK_M - 1) // group
    end_column = tl.minimum(columns, columns - rows + last_row + 1)
    position_M = context + column_M
    lowest = 0
    if HAS_WINDOW:
        position_M = context + tl.load(depth_ptr + first_column + column_M)
        nearest = tl.min(position_M)
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
    mask_ptr += first_row.to(tl.int64) * mask_stride
    keys = k_ptr + o_key, v_ptr + o_key, page_ptr, mask_ptr, depth_ptr, slot_stride, context
    row_state = position_M, row_M * mask_stride
    options = key_scale, softcap, window
    state = attend(
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
        state = attend(
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
    factor_M = 1.0 / sum_M
    if HAS_SCALE:
        factor_M *= tl.load(kv_scale_ptr + tl.num_programs(1) + i_key)
    out_MD *= factor_M[:, None]
    # The group in other words: else the compiler keeps the rows in registers through the loops.
    group = heads // tl.num_programs(1)
    o_M = i_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    m_M, row_M = o_M < rows * group, (o_M // group).to(tl.int64)
    m_MD = m_M[:, None] & m_1D
    if IS_SPLIT:
        o_part = (i_split.to(tl.int64) * num_rows + first_row) * heads + first_head
        o_part_M = o_part + row_M * (heads - group) + o_M
        lse_M = tl.where(is_blind_M, -float("inf"), top_M + tl.log2(sum_M))
        tl.store(lse_ptr + o_part_M, lse_M, m_M)
        tl.store(partial_ptr + o_part_M[:, None] * HEAD_DIM + o_D[None, :], out_MD, m_MD)
    else:
        o_out = first_row.to(tl.int64) * out_row + first_head * out_head
        o_out_M = o_out + row_M * (out_row - group * out_head) + o_M * out_head
        tl.store(out_ptr + o_out_M[:, None] + o_D[None, :], out_MD, m_MD)


def compilations() -> Iterator[Compilation]:
    """Every configuration with every kind of cache and of options."""
    for config in CONFIGS:
        head_dim = config.max_head_dim
        for kv in ("bf16", "fp8e5", "fp8e4nv"):
            for has_options, is_split in product((False, True), repeat=2):
                yield _compilation(config, "bf16", kv, head_dim, has_options, is_split)
            # Heads that do not fill their tile need a mask.
            yield _compilation(config, "bf16", kv, head_dim * 5 // 8, True, False)
    yield _as_one_sequence(_compilation(CONFIGS[0], "bf16", "bf16", 128, False, True))
    for head_dim in (64, 128, 160, 256):
        for has_options, is_split in product((False, True), repeat=2):
            yield _compilation(FLOAT32, "fp32", "fp32", head_dim, has_options, is_split)


def _as_one_sequence(one: Compilation) -> Compilation:
    """Triton makes a constant of every integer that is 1."""
    ones = ("batch", "num_rows", "group", "page_stride", "mask_stride")
    return replace(
        one,
        case=f"{one.case}, one row of one sequence",
        signature=one.signature | dict.fromkeys(ones, "constexpr"),
        constexprs=one.constexprs | dict.fromkeys(ones, 1),
        is_usual=False,
    )


def _compilation(
    config: Config, q: str, kv: str, head_dim: int, has_options: bool, is_split: bool
) -> Compilation:
    is_scaled = kv.startswith("fp8")
    constexprs: dict[str, Any] = {
        "HAS_SOFTCAP": has_options,
        "HAS_WINDOW": has_options,
        "HAS_SCALE": is_scaled,
        "IS_SPLIT": is_split,
        "IS_INTERPRETED": False,
        "PAGE": 16,
        "HEAD_DIM": head_dim,
        "BLOCK_D": triton.next_power_of_2(head_dim),
        "BLOCK_M": config.block_m,
        "BLOCK_L": config.block_l,
    }
    if not is_scaled:
        constexprs["kv_scale_ptr"] = None
    strides = ("q_row", "q_head", "slot_stride", "key_stride", "out_row", "out_head")
    partial = "*fp32" if is_split else f"*{q}"  # without splits, the output in their place
    signature = {"q_ptr": f"*{q}", "k_ptr": f"*{kv}", "v_ptr": f"*{kv}", "kv_scale_ptr": "*fp32"}
    integers = ("cu_rows_ptr", "cu_tree_ptr", "context_ptr", "page_ptr")
    signature |= dict.fromkeys(integers, "*i32") | {"mask_ptr": "*i64", "depth_ptr": "*i32"}
    signature |= {"out_ptr": f"*{q}"} | dict.fromkeys(("partial_ptr", "lse_ptr"), partial)
    numbers = ("batch", "num_rows", "heads", "group", *strides, "page_stride", "mask_stride")
    signature |= dict.fromkeys(numbers, "i32")
    signature |= {"scale": "fp32", "softcap": "fp32", "window": "i32"}
    tile = f"{kv} {config.block_m}x{config.block_l}x{head_dim}"
    return Compilation(
        kernel="tree_attention",
        case=tile + ("" if is_split else ", unsplit") + (", options" if has_options else ""),
        fn=_split_kernel,
        signature=signature | dict.fromkeys(constexprs, "constexpr"),
        constexprs=constexprs,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        aligned=strides,
        large=("k_ptr", "v_ptr"),
        max_registers=max_registers(config.num_warps),
        beside=("sm_80",) if kv == "fp8e4nv" else (),
        is_usual=kv == q and is_split and not has_options and head_dim in (128, 256),
    )
