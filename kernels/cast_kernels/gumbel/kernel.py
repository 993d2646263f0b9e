"""Position-keyed Gumbel argmax in one pass over the vocabulary.

Grid: (R rows, S tiles of the vocabulary), then (R,) to combine the tiles. Tile: BLOCK tokens as
[BLOCK / 8, 8], as one Philox evaluation serves eight. Bytes moved: R * V scores, once; 28 R * S of
partial results. Two float64 logarithms a token are the price of choosing as the reference does;
greedy rows and tiles in which every token is forbidden do not pay it.
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


class Config(NamedTuple):
    block: int
    num_warps: int


CONFIGS: Final = (Config(512, 4), Config(1024, 4), Config(1024, 8), Config(2048, 8))
DEFAULT: Final = CONFIGS[1]
MAX_TILES: Final = 2048


def gumbel_argmax(
    scores_RV: Tensor,
    seed_R: Tensor,
    position_R: Tensor,
    is_greedy_R: Tensor | None = None,
    config: Config = DEFAULT,
) -> tuple[Tensor, Tensor]:
    """One sample of softmax(scores) a row, int64 [R], and its log-probability, float32 [R].

    scores_RV: float32, bfloat16 or float16, last dimension contiguous; otherwise as in the
    reference. is_greedy_R: bool, rows that take the highest score, without noise.
    """
    num_rows, vocabulary = scores_RV.shape
    tiles = triton.cdiv(vocabulary, config.block)
    assert scores_RV.stride(1) == 1, scores_RV.stride()
    assert tiles <= MAX_TILES, f"at most {MAX_TILES} tiles, got {tiles}"
    device = scores_RV.device
    if is_greedy_R is None:
        is_greedy_R = torch.zeros(num_rows, dtype=torch.bool, device=device)
    best_RS = torch.empty((num_rows, tiles), dtype=torch.float64, device=device)
    token_RS = torch.empty((num_rows, tiles), dtype=torch.int64, device=device)
    stats_3RS = torch.empty((3, num_rows, tiles), dtype=torch.float32, device=device)
    token_R = torch.empty(num_rows, dtype=torch.int64, device=device)
    log_prob_R = torch.empty(num_rows, dtype=torch.float32, device=device)
    if num_rows == 0:
        return token_R, log_prob_R
    _tile_kernel[(num_rows, tiles)](
        scores_RV,
        seed_R,
        position_R,
        is_greedy_R.view(torch.int8),
        best_RS,
        token_RS,
        *stats_3RS,
        scores_RV.stride(0),
        vocabulary,
        BLOCK=config.block,
        num_warps=config.num_warps,
    )
    _combine_kernel[(num_rows,)](
        best_RS,
        token_RS,
        *stats_3RS,
        token_R,
        log_prob_R,
        tiles,
        BLOCK_S=triton.next_power_of_2(tiles),
        num_warps=4,
    )
    return token_R, log_prob_R


@triton.jit
def _noise(seed, position, block_C):
    """float64 [C, 8], from the same integers as the reference."""
    zero_C = tl.zeros_like(block_C).to(tl.uint64)
    counter_C = (block_C + 1).to(tl.uint64)
    w0, w1, w2, w3 = tl.philox(seed, counter_C, zero_C + position.to(tl.uint64), zero_C, zero_C)
    # The last axis of a join is the newest: this order comes out as 0, 1, 2, 3.
    word_C22 = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    half_C222 = tl.join(word_C22 & 0xFFFFFFFF, word_C22 >> 32).to(tl.uint32)
    half_C8 = tl.reshape(half_C222, [block_C.shape[0], 8])
    uniform_C8 = (half_C8.to(tl.float64) + 0.5) * 2.3283064365386963e-10  # 2^-32
    return -tl.log(-tl.log(uniform_C8))


@triton.jit
def _tile_kernel(
    scores_ptr,
    seed_ptr,
    position_ptr,
    is_greedy_ptr,
    best_ptr,
    token_ptr,
    score_ptr,
    top_ptr,
    sum_ptr,
    row_stride,
    vocabulary,
    BLOCK: tl.constexpr,
):
    i_row, i_tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    block_C = i_tile * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    token_C8 = block_C[:, None] * 8 + tl.arange(0, 8)[None, :]
    score_C8 = tl.load(
        scores_ptr + i_row * row_stride + token_C8, token_C8 < vocabulary, other=-float("inf")
    ).to(tl.float32)
    top = tl.max(score_C8)
    noisy_C8 = score_C8.to(tl.float64)
    if (tl.load(is_greedy_ptr + i_row) == 0) & (top > -float("inf")):
        seed, position = tl.load(seed_ptr + i_row), tl.load(position_ptr + i_row)
        noisy_C8 += _noise(seed, position, block_C)
    best = tl.max(noisy_C8)
    token = tl.min(tl.where(noisy_C8 == best, token_C8, 0x7FFFFFFF))
    # A forbidden tile has no top: 0 in its place gives a sum of 0 where -inf would give NaN.
    shifted_C8 = score_C8 - tl.where(top > -float("inf"), top, 0.0)
    o_out = i_row * tl.num_programs(1) + i_tile
    tl.store(best_ptr + o_out, best)
    tl.store(token_ptr + o_out, token.to(tl.int64))
    tl.store(score_ptr + o_out, tl.max(tl.where(token_C8 == token, score_C8, -float("inf"))))
    tl.store(top_ptr + o_out, top)
    tl.store(sum_ptr + o_out, tl.sum(tl.exp(shifted_C8)))


@triton.jit
def _combine_kernel(
    best_ptr,
    token_ptr,
    score_ptr,
    top_ptr,
    sum_ptr,
    out_token_ptr,
    out_log_prob_ptr,
    tiles,
    BLOCK_S: tl.constexpr,
):
    i_row = tl.program_id(0).to(tl.int64)
    o_S = tl.arange(0, BLOCK_S)
    m_S = o_S < tiles
    o_in_S = i_row * tiles + o_S
    best_S = tl.load(best_ptr + o_in_S, m_S, other=-float("inf"))
    token_S = tl.load(token_ptr + o_in_S, m_S, other=0x7FFFFFFF)
    score_S = tl.load(score_ptr + o_in_S, m_S, other=-float("inf"))
    token = tl.min(tl.where(best_S == tl.max(best_S), token_S, 0x7FFFFFFF))
    score = tl.max(tl.where(token_S == token, score_S, -float("inf")))
    top_S = tl.load(top_ptr + o_in_S, m_S, other=-float("inf"))
    top = tl.max(top_S)
    total = tl.sum(tl.load(sum_ptr + o_in_S, m_S, other=0.0) * tl.exp(top_S - top))
    tl.store(out_token_ptr + i_row, token)
    tl.store(out_log_prob_ptr + i_row, score - top - tl.log(total))


def compilations() -> Iterator[Compilation]:
    """Every configuration of both kernels; scores in the widest type."""
    partial = {"best_ptr": "*fp64", "token_ptr": "*i64"}
    partial |= dict.fromkeys(("score_ptr", "top_ptr", "sum_ptr"), "*fp32")
    rows = {"seed_ptr": "*i64", "position_ptr": "*i64", "is_greedy_ptr": "*i8"}
    sizes = {"row_stride": "i32", "vocabulary": "i32", "BLOCK": "constexpr"}
    signature = {"scores_ptr": "*fp32"} | rows | partial | sizes
    for block, num_warps in CONFIGS:
        yield Compilation(
            "gumbel.tile",
            f"{block} tokens, {num_warps} warps",
            _tile_kernel,
            signature,
            {"BLOCK": block},
            num_warps,
            1,
            is_usual=(block, num_warps) == DEFAULT,
        )
    outputs = {"out_token_ptr": "*i64", "out_log_prob_ptr": "*fp32"}
    signature = partial | outputs | {"tiles": "i32", "BLOCK_S": "constexpr"}
    for tiles in (32, 256, MAX_TILES):
        yield Compilation(
            "gumbel.combine", f"{tiles} tiles", _combine_kernel, signature, {"BLOCK_S": tiles}, 4, 1
        )
