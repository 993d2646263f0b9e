"""The splits of a step's attention, merged by their log-sum-exps.

Grid: (N, H). Tile: PART_Z of the splits of a row and head, [PART_Z, BLOCK_D], one after the other.
Bytes moved: 4 (D + 1) a split and row and head, once in; the output once out. Splits without a
visible key are not read.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0913

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from cast_kernels.compilation import Compilation
from cast_kernels.registers import max_registers, register_options

_WARPS: Final = 4
_PART: Final = 16


def merge(partial_ZNHD: Tensor, lse_ZNH: Tensor, cu_rows_B1: Tensor, out_NHD: Tensor) -> None:
    """Writes the rows of all sequences; leaves idle ones, which come behind, as they are.

    partial_ZNHD: float32 outputs of each split, normalised; lse_ZNH: float32, in bits, -inf where a
    split has seen nothing and its output is not to be read. Both contiguous.
    """
    num_splits, num_rows, heads, head_dim = partial_ZNHD.shape
    _kernel[(num_rows, heads)](
        partial_ZNHD,
        lse_ZNH,
        cu_rows_B1,
        out_NHD,
        len(cu_rows_B1) - 1,
        num_rows,
        num_splits,
        out_NHD.stride(0),
        out_NHD.stride(1),
        HEAD_DIM=head_dim,
        BLOCK_D=triton.next_power_of_2(head_dim),
        **_blocks(num_splits),
        num_warps=_WARPS,
        **register_options(out_NHD.device, _WARPS),
    )


def _blocks(num_splits: int) -> dict[str, int]:
    block_z = triton.next_power_of_2(num_splits)
    return {"BLOCK_Z": block_z, "PART_Z": min(_PART, block_z)}


@triton.jit
def _kernel(
    partial_ptr,
    lse_ptr,
    cu_rows_ptr,
    out_ptr,
    batch,
    num_rows,
    splits,
    out_row,
    out_head,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Z: tl.constexpr,
    PART_Z: tl.constexpr,
):
    i_row, i_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if i_row >= tl.load(cu_rows_ptr + batch):
        return
    o_Z, o_D = tl.arange(0, BLOCK_Z).to(tl.int64), tl.arange(0, BLOCK_D)
    o_part_Z = (o_Z * num_rows + i_row) * tl.num_programs(1) + i_head
    lse_Z = tl.load(lse_ptr + o_part_Z, o_Z < splits, other=-float("inf"))
    top = tl.max(lse_Z)  # a row sees at least itself: one split has a sum
    out_D = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, splits, PART_Z):
        o_P = (first + tl.arange(0, PART_Z)).to(tl.int64)
        o_part_P = (o_P * num_rows + i_row) * tl.num_programs(1) + i_head
        weight_P = tl.exp2(tl.load(lse_ptr + o_part_P, o_P < splits, other=-float("inf")) - top)
        m_PD = (weight_P > 0)[:, None] & (o_D < HEAD_DIM)[None, :]
        o_part_PD = o_part_P[:, None] * HEAD_DIM + o_D[None, :]
        part_PD = tl.load(partial_ptr + o_part_PD, m_PD, other=0.0)
        out_D += tl.sum(part_PD * weight_P[:, None], 0)
    out_D /= tl.sum(tl.exp2(lse_Z - top))
    tl.store(out_ptr + i_row * out_row + i_head * out_head + o_D, out_D, o_D < HEAD_DIM)


def compilations() -> Iterator[Compilation]:
    """Few splits and many, for usual heads and large ones."""
    signature = {"partial_ptr": "*fp32", "lse_ptr": "*fp32", "cu_rows_ptr": "*i32"}
    signature |= {"out_ptr": "*bf16", "batch": "i32", "num_rows": "i32", "splits": "i32"}
    strides = ("out_row", "out_head")
    signature |= dict.fromkeys(strides, "i32")
    for head_dim in (128, 256):
        for splits in (2, 64, 512):
            blocks = {"HEAD_DIM": head_dim, "BLOCK_D": head_dim} | _blocks(splits)
            yield Compilation(
                "tree_attention.merge",
                f"{splits} splits of {head_dim}",
                _kernel,
                signature | dict.fromkeys(blocks, "constexpr"),
                blocks,
                _WARPS,
                1,
                strides,
                max_registers=max_registers(_WARPS),
                is_usual=head_dim == 128 and splits <= 64,
            )
