"""Top-k of the log-softmax in one pass over the vocabulary.

A logit and its index become one int64 that sorts like the pair: by logit, then lowest index first.
So the best of a tile are a plain top-k of integers, and so are the best of all tiles' best.
Grid: (N rows, S tiles of the vocabulary), then (N,) to combine the tiles. Tile: BLOCK tokens. Bytes
moved: N * V logits, once; (16 K + 16) * N * S of partial results, K the next power of two of k.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0913

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cast_kernels.compilation import Compilation
from cast_kernels.ordering import from_ordered, to_ordered


class Config(NamedTuple):
    block: int
    num_warps: int


CONFIGS: Final = (Config(512, 4), Config(1024, 4), Config(2048, 4), Config(2048, 8))
DEFAULT: Final = CONFIGS[2]
MAX_K: Final = 16
MAX_TILES: Final = 256
_WIDTHS: Final = (1, 2, 4, 8)  # what smaller k are rounded up to
_COMBINE_WARPS: Final = 8


def log_softmax_topk(logits_NV: Tensor, k: int, config: Config = DEFAULT) -> tuple[Tensor, Tensor]:
    """See the package. Last dimension contiguous; at most `MAX_TILES` tiles."""
    num_rows, vocabulary = logits_NV.shape
    tiles = triton.cdiv(vocabulary, config.block)
    assert 1 <= k <= min(MAX_K, vocabulary), (k, vocabulary)
    assert logits_NV.stride(1) == 1, logits_NV.stride()
    assert tiles <= MAX_TILES, f"at most {MAX_TILES} tiles, got {tiles}"
    device, width = logits_NV.device, triton.next_power_of_2(k)
    key_NSK = torch.empty((num_rows, tiles, width), dtype=torch.int64, device=device)
    top_NS = torch.empty((num_rows, tiles), dtype=torch.float32, device=device)
    sum_NS = torch.empty((num_rows, tiles), dtype=torch.float32, device=device)
    value_NK = torch.empty((num_rows, k), dtype=torch.float32, device=device)
    index_NK = torch.empty((num_rows, k), dtype=torch.int64, device=device)
    if num_rows == 0:
        return value_NK, index_NK
    _tile_kernel[(num_rows, tiles)](
        logits_NV,
        key_NSK,
        top_NS,
        sum_NS,
        logits_NV.stride(0),
        vocabulary,
        K=width,
        BLOCK=config.block,
        num_warps=config.num_warps,
    )
    _combine_kernel[(num_rows,)](
        key_NSK,
        top_NS,
        sum_NS,
        value_NK,
        index_NK,
        tiles,
        k,
        K=width,
        BLOCK_S=triton.next_power_of_2(tiles),
        num_warps=_COMBINE_WARPS,
    )
    return value_NK, index_NK


@triton.jit
def _to_key(logit, index):
    """int64 that is greater for a greater float32, and for a lower index among equals."""
    return (to_ordered(logit).to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit
def _from_key(key):
    """The logit and the index."""
    return from_ordered((key >> 32).to(tl.int32)), 0x7FFFFFFF - (key & 0x7FFFFFFF)


@triton.jit
def _tile_kernel(
    logits_ptr,
    key_ptr,
    top_ptr,
    sum_ptr,
    row_stride,
    vocabulary,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i_row, i_tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_V = i_tile * BLOCK + tl.arange(0, BLOCK)
    logit_V = tl.load(
        logits_ptr + i_row * row_stride + o_V, o_V < vocabulary, other=-float("inf")
    ).to(tl.float32)
    top = tl.max(logit_V)
    # A forbidden tile has no top: 0 in its place gives a sum of 0 where -inf would give NaN.
    shifted_V = logit_V - tl.where(top > -float("inf"), top, 0.0)
    o_out = i_row * tl.num_programs(1) + i_tile
    # Indices beyond the vocabulary are the highest: they come behind tokens that are forbidden.
    tl.store(key_ptr + o_out * K + tl.arange(0, K), tl.topk(_to_key(logit_V, o_V), K))
    tl.store(top_ptr + o_out, top)
    tl.store(sum_ptr + o_out, tl.sum(tl.exp(shifted_V)))


@triton.jit
def _combine_kernel(
    key_ptr,
    top_ptr,
    sum_ptr,
    value_ptr,
    index_ptr,
    tiles,
    k,
    K: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    i_row = tl.program_id(0).to(tl.int64)
    o_S = tl.arange(0, BLOCK_S)
    top_S = tl.load(top_ptr + i_row * tiles + o_S, o_S < tiles, other=-float("inf"))
    sum_S = tl.load(sum_ptr + i_row * tiles + o_S, o_S < tiles, other=0.0)
    top = tl.max(top_S)
    log_total = tl.log(tl.sum(sum_S * tl.exp(top_S - top)))
    o_key = tl.arange(0, BLOCK_S * K)
    lowest = -0x8000000000000000
    key = tl.load(key_ptr + i_row * tiles * K + o_key, o_key < tiles * K, other=lowest)
    logit_K, index_K = _from_key(tl.topk(key, K))
    o_K = tl.arange(0, K)
    tl.store(value_ptr + i_row * k + o_K, (logit_K - top) - log_total, o_K < k)
    tl.store(index_ptr + i_row * k + o_K, index_K, o_K < k)


def compilations() -> Iterator[Compilation]:
    """Every configuration of both kernels at the greatest k, and smaller ones."""
    partial = {"key_ptr": "*i64", "top_ptr": "*fp32", "sum_ptr": "*fp32"}
    sizes = {"row_stride": "i32", "vocabulary": "i32", "K": "constexpr", "BLOCK": "constexpr"}
    signature = {"logits_ptr": "*fp32"} | partial | sizes
    for config, k in [*((one, MAX_K) for one in CONFIGS), *((DEFAULT, k) for k in _WIDTHS)]:
        yield Compilation(
            "log_softmax_topk.tile",
            f"{k} of {config.block} tokens, {config.num_warps} warps",
            _tile_kernel,
            signature,
            {"K": k, "BLOCK": config.block},
            config.num_warps,
            1,
            is_usual=config == DEFAULT and k == MAX_K,
        )
    outputs = {"value_ptr": "*fp32", "index_ptr": "*i64", "tiles": "i32", "k": "i32"}
    signature = partial | outputs | {"K": "constexpr", "BLOCK_S": "constexpr"}
    for tiles, k in [(16, MAX_K), (64, MAX_K), *((MAX_TILES, k) for k in (*_WIDTHS, MAX_K))]:
        yield Compilation(
            "log_softmax_topk.combine",
            f"{k} of {tiles} tiles",
            _combine_kernel,
            signature,
            {"K": k, "BLOCK_S": tiles},
            _COMBINE_WARPS,
            1,
            is_usual=k == MAX_K,
        )
