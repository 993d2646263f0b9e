"""The splits of a step's attention, merged by their log-sum-exps.

Grid: (N, H). Tile: all splits of a row and head, [BLOCK_Z, BLOCK_D]. Bytes moved: 4 (D + 1) a split
and row and head, once in; the output once out. Splits without a visible key are not read.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0913

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from cast_kernels.compilation import Compilation


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
        BLOCK_Z=triton.next_power_of_2(num_splits),
        num_warps=4,
    )


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
):
    i_row, i_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if i_row >= tl.load(cu_rows_ptr + batch):
        return
    o_Z, o_D = tl.arange(0, BLOCK_Z).to(tl.int64), tl.arange(0, BLOCK_D)
    m_D = o_D < HEAD_DIM
    o_part_Z = (o_Z * num_rows + i_row) * tl.num_programs(1) + i_head
    lse_Z = tl.load(lse_ptr + o_part_Z, o_Z < splits, other=-float("inf"))
    weight_Z = tl.exp2(lse_Z - tl.max(lse_Z))  # a row sees at least itself: one split has a sum
    m_ZD = (weight_Z > 0)[:, None] & m_D[None, :]
    part_ZD = tl.load(partial_ptr + o_part_Z[:, None] * HEAD_DIM + o_D[None, :], m_ZD, other=0.0)
    out_D = tl.sum(part_ZD * weight_Z[:, None], 0) / tl.sum(weight_Z)
    tl.store(out_ptr + i_row * out_row + i_head * out_head + o_D, out_D, m_D)


def compilations() -> Iterator[Compilation]:
    """Few splits and many."""
    signature = {"partial_ptr": "*fp32", "lse_ptr": "*fp32", "cu_rows_ptr": "*i32"}
    signature |= {"out_ptr": "*bf16", "batch": "i32", "num_rows": "i32", "splits": "i32"}
    strides = ("out_row", "out_head")
    signature |= dict.fromkeys(strides, "i64")
    for splits in (2, 64):
        blocks = {"HEAD_DIM": 128, "BLOCK_D": 128, "BLOCK_Z": splits}
        signature |= dict.fromkeys(blocks, "constexpr")
        name = f"tree_attention_merge_{splits}"
        yield Compilation(name, _kernel, signature, blocks, 4, 1, aligned=strides)
