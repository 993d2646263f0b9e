"""Selection of the next level by bisection over the bits of what a node is worth.

Grid: (1,), as one program must see all nodes. Tile: all of them, [BLOCK_B, BLOCK_C], at most
`MAX_NODES` after both sides are rounded up to powers of two. Bytes moved: 4 B * C, then 8 W + 4 B.
Latency is the floor: 32 counts over the tile, one a bit, instead of the 105 steps of sorting it.
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
from cast_kernels.ordering import to_ordered


class Config(NamedTuple):
    max_nodes: int
    num_warps: int


CONFIGS: Final = (Config(512, 2), Config(2048, 4), Config(8192, 8), Config(16384, 16))
MAX_NODES: Final = CONFIGS[-1].max_nodes


def frontier(log_probs_BC: Tensor, log_weights_B: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """See the package. At most `MAX_NODES` nodes."""
    batch, width = log_probs_BC.shape
    assert log_probs_BC.is_contiguous()
    flat_W = torch.empty(num_rows, dtype=torch.int64, device=log_probs_BC.device)
    counts_B = torch.empty(batch, dtype=torch.int32, device=log_probs_BC.device)
    if log_probs_BC.numel() == 0:
        return flat_W.fill_(-1), counts_B.zero_()
    block_b, block_c = triton.next_power_of_2(batch), triton.next_power_of_2(width)
    nodes = block_b * block_c
    assert nodes <= MAX_NODES, f"at most {MAX_NODES} nodes, got {nodes} with padding"
    _kernel[(1,)](
        log_probs_BC,
        log_weights_B,
        flat_W,
        counts_B,
        batch,
        width,
        num_rows,
        BLOCK_B=block_b,
        BLOCK_C=block_c,
        num_warps=next(one.num_warps for one in CONFIGS if one.max_nodes >= nodes),
    )
    return flat_W, counts_B


@triton.jit
def _to_key(worth):
    """uint32 that is greater for a greater float32; 0 for -inf alone."""
    ordered = to_ordered(worth).to(tl.uint32, bitcast=True) ^ 0x80000000
    return tl.where(worth == -float("inf"), tl.zeros_like(ordered), ordered)


@triton.jit
def _rank(is_BC):
    """How many are true before each, by sequence, then node."""
    one_BC = is_BC.to(tl.int32)
    count_B = tl.sum(one_BC, 1)
    return (tl.cumsum(count_B, 0) - count_B)[:, None] + tl.cumsum(one_BC, 1) - one_BC


@triton.jit
def _kernel(
    log_prob_ptr,
    log_weight_ptr,
    flat_ptr,
    count_ptr,
    batch,
    width,
    num_rows,
    BLOCK_B: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    o_B, o_C = tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_C)
    m_BC = (o_B < batch)[:, None] & (o_C < width)[None, :]
    flat_BC = o_B.to(tl.int64)[:, None] * width + o_C[None, :]
    log_weight_B = tl.load(log_weight_ptr + o_B, o_B < batch, other=0.0)
    log_prob_BC = tl.load(log_prob_ptr + flat_BC, m_BC, other=-float("inf"))
    key_BC = _to_key(log_prob_BC + log_weight_B[:, None])
    least = tl.zeros([], tl.uint32)  # the greatest key that W nodes reach, 0 if fewer are open
    for i_bit in range(32):
        trial = least | (tl.full([], 0x80000000, tl.uint32) >> i_bit)
        least = tl.where(tl.sum((key_BC >= trial).to(tl.int32)) >= num_rows, trial, least)
    is_above_BC = key_BC > least
    is_tied_BC = (key_BC == least) & (key_BC > 0)
    num_tied = num_rows - tl.sum(is_above_BC.to(tl.int32))
    is_taken_BC = is_above_BC | (is_tied_BC & (_rank(is_tied_BC) < num_tied))
    count_B = tl.sum(is_taken_BC.to(tl.int32), 1)
    tl.store(count_ptr + o_B, count_B, o_B < batch)
    tl.store(flat_ptr + _rank(is_taken_BC), flat_BC, is_taken_BC)
    for begin in range(tl.sum(count_B), num_rows, BLOCK_C):
        o_W = begin + o_C
        tl.store(flat_ptr + o_W, tl.full([BLOCK_C], -1, tl.int64), o_W < num_rows)


def compilations() -> Iterator[Compilation]:
    """Every configuration at its limit, with 64 candidates a sequence."""
    signature = {
        "log_prob_ptr": "*fp32",
        "log_weight_ptr": "*fp32",
        "flat_ptr": "*i64",
        "count_ptr": "*i32",
        "batch": "i32",
        "width": "i32",
        "num_rows": "i32",
        "BLOCK_B": "constexpr",
        "BLOCK_C": "constexpr",
    }
    for max_nodes, num_warps in CONFIGS:
        constexprs = {"BLOCK_B": max_nodes // 64, "BLOCK_C": 64}
        yield Compilation(f"frontier_{max_nodes}", _kernel, signature, constexprs, num_warps, 1)
