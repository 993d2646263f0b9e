"""Selection of the next level by bisection over the bits of what a node is worth.

Grid: (1,), as one program must see all nodes. Tile: all of them, [BLOCK_B, BLOCK_C], at most
`MAX_NODES` after both sides are rounded up to powers of two; then again in parts, [PART_B, PART_C].
Bytes moved: 4 B * C, which the second time come from L2, then 8 W + 4 B. Latency is the floor: 32
counts over the tile, one a bit, instead of the 105 steps of sorting it.
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
from cast_kernels.registers import max_registers, register_options


class Config(NamedTuple):
    max_nodes: int
    num_warps: int


CONFIGS: Final = (Config(512, 2), Config(2048, 4), Config(8192, 8), Config(16384, 16))
MAX_NODES: Final = CONFIGS[-1].max_nodes
_PART: Final = 128  # nodes a warp


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
    num_warps = next(one.num_warps for one in CONFIGS if one.max_nodes >= nodes)
    _kernel[(1,)](
        log_probs_BC,
        log_weights_B,
        flat_W,
        counts_B,
        batch,
        width,
        num_rows,
        **_blocks(block_b, block_c, num_warps),
        num_warps=num_warps,
        **register_options(log_probs_BC.device, num_warps),
    )
    return flat_W, counts_B


def _blocks(block_b: int, block_c: int, num_warps: int) -> dict[str, int]:
    """A part is whole sequences or a piece of one, so that its nodes come in their order."""
    part = _PART * num_warps
    part_c = min(part, block_c)
    part_b = min(part // part_c, block_b)
    return {"BLOCK_B": block_b, "BLOCK_C": block_c, "PART_B": part_b, "PART_C": part_c}


@triton.jit
def _to_key(worth):
    """uint32 that is greater for a greater float32; 0 for -inf alone."""
    ordered = to_ordered(worth).to(tl.uint32, bitcast=True) ^ 0x80000000
    return ordered - 0x007FFFFF  # which is what becomes of -inf


@triton.jit
def _load_keys(log_prob_ptr, log_weight_ptr, o_B, o_C, batch, width):
    m_B, m_C = o_B < batch, o_C < width
    log_weight_B = tl.load(log_weight_ptr + o_B, m_B, other=0.0)
    log_prob_ptr += o_B[:, None] * width + o_C[None, :]
    log_prob_BC = tl.load(log_prob_ptr, m_B[:, None] & m_C[None, :], other=-float("inf"))
    return _to_key(log_prob_BC + log_weight_B[:, None])


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
    PART_B: tl.constexpr,
    PART_C: tl.constexpr,
):
    o_B, o_C = tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_C)
    key_BC = _load_keys(log_prob_ptr, log_weight_ptr, o_B, o_C, batch, width)
    least = tl.zeros([], tl.uint32)  # the greatest key that W nodes reach, 0 if fewer are open
    for i_bit in range(32):
        trial = least | (tl.full([], 0x80000000, tl.uint32) >> i_bit)
        least = tl.where(tl.sum((key_BC >= trial).to(tl.int32)) >= num_rows, trial, least)
    wanted = num_rows - tl.sum((key_BC > least).to(tl.int32))  # of those that are tied
    # In parts, as ranks take many registers.
    taken = 0
    for first_b in range(0, batch, PART_B):
        o_P = first_b + tl.arange(0, PART_B)
        count_P = tl.zeros([PART_B], tl.int32)
        for first_c in range(0, width, PART_C):
            o_Q = first_c + tl.arange(0, PART_C)
            key_PQ = _load_keys(log_prob_ptr, log_weight_ptr, o_P, o_Q, batch, width)
            is_tied_PQ = (key_PQ == least) & (key_PQ > 0)
            is_taken_PQ = (key_PQ > least) | (is_tied_PQ & (_rank(is_tied_PQ) < wanted))
            flat_PQ = o_P[:, None] * width + o_Q[None, :]
            tl.store(flat_ptr + taken + _rank(is_taken_PQ), flat_PQ.to(tl.int64), is_taken_PQ)
            wanted -= tl.sum(is_tied_PQ.to(tl.int32))
            count_P += tl.sum(is_taken_PQ.to(tl.int32), 1)
            taken += tl.sum(is_taken_PQ.to(tl.int32))
        tl.store(count_ptr + o_P, count_P, o_P < batch)
    for begin in range(taken, num_rows, BLOCK_C):
        o_W = begin + tl.arange(0, BLOCK_C)
        tl.store(flat_ptr + o_W, tl.full([BLOCK_C], -1, tl.int64), o_W < num_rows)


def compilations() -> Iterator[Compilation]:
    """Every configuration at its limit: one candidate a sequence, 64, all in one sequence."""
    signature = {"log_prob_ptr": "*fp32", "log_weight_ptr": "*fp32", "flat_ptr": "*i64"}
    signature |= {"count_ptr": "*i32"} | dict.fromkeys(("batch", "width", "num_rows"), "i32")
    for max_nodes, num_warps in CONFIGS:
        for width in (1, 64, max_nodes):
            blocks = _blocks(max_nodes // width, width, num_warps)
            yield Compilation(
                "frontier",
                f"{max_nodes // width}x{width}",
                _kernel,
                signature | dict.fromkeys(blocks, "constexpr"),
                blocks,
                num_warps,
                1,
                max_registers=max_registers(num_warps),
                is_usual=width == 64,
            )
