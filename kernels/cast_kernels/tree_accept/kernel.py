"""Acceptance of all trees of a batch in one launch.

Grid: (B,), one program a sequence. Tile: all BLOCK rows of the sequence. Bytes moved: 28 a row (the
choice behind the parent is gathered), 4 D + 12 a sequence. Latency, not traffic, is the floor: D
reductions over the rows, one after the other.
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


CONFIGS: Final = (Config(32, 1), Config(128, 1), Config(512, 4), Config(2048, 8))
MAX_ROWS: Final = CONFIGS[-1].block


def tree_accept(
    chosen_N: Tensor,
    token_N: Tensor,
    parent_N: Tensor,
    cu_rows_B1: Tensor,
    max_rows: int,
    max_depth: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See the package. At most `MAX_ROWS` rows a sequence."""
    assert max_rows <= MAX_ROWS, f"at most {MAX_ROWS} rows a sequence, got {max_rows}"
    block, num_warps = next(one for one in CONFIGS if one.block >= max_rows)
    batch, device = len(cu_rows_B1) - 1, chosen_N.device
    path_BD = torch.empty((batch, max_depth), dtype=torch.int32, device=device)
    num_accepted_B = torch.empty(batch, dtype=torch.int32, device=device)
    bonus_B = torch.empty(batch, dtype=torch.int64, device=device)
    if batch > 0:
        _kernel[(batch,)](
            chosen_N,
            token_N,
            parent_N,
            cu_rows_B1,
            path_BD,
            num_accepted_B,
            bonus_B,
            max_depth,
            BLOCK=block,
            num_warps=num_warps,
        )
    return path_BD, num_accepted_B, bonus_B


@triton.jit
def _kernel(
    chosen_ptr,
    token_ptr,
    parent_ptr,
    cu_rows_ptr,
    path_ptr,
    num_accepted_ptr,
    bonus_ptr,
    max_depth,
    BLOCK: tl.constexpr,
):
    i_sequence = tl.program_id(0).to(tl.int64)
    begin = tl.load(cu_rows_ptr + i_sequence).to(tl.int64)
    num_rows = (tl.load(cu_rows_ptr + i_sequence + 1) - begin).to(tl.int32)
    o_R = tl.arange(0, BLOCK)
    m_R = (o_R > 0) & (o_R < num_rows)
    parent_R = tl.load(parent_ptr + begin + o_R, m_R, other=0)
    token_R = tl.load(token_ptr + begin + o_R, m_R, other=0)
    is_chosen_R = m_R & (token_R == tl.load(chosen_ptr + begin + parent_R, m_R, other=0))
    # What no walk may enter has no parent, so that a level is one comparison and one minimum.
    parent_R = tl.where(is_chosen_R, parent_R, -1)
    row = 0
    num_accepted = 0
    for depth in range(max_depth):
        child = tl.min(tl.where(parent_R == row, o_R, BLOCK))
        is_found = child < BLOCK
        tl.store(path_ptr + i_sequence * max_depth + depth, tl.where(is_found, child, -1))
        row = tl.where(is_found, child, row)  # a walk that has ended finds nothing again
        num_accepted += is_found.to(tl.int32)
    tl.store(num_accepted_ptr + i_sequence, num_accepted)
    bonus = tl.load(chosen_ptr + begin + row, num_rows > 0, other=-1)
    tl.store(bonus_ptr + i_sequence, bonus)


def compilations() -> Iterator[Compilation]:
    """Every configuration."""
    signature = {
        "chosen_ptr": "*i64",
        "token_ptr": "*i64",
        "parent_ptr": "*i32",
        "cu_rows_ptr": "*i32",
        "path_ptr": "*i32",
        "num_accepted_ptr": "*i32",
        "bonus_ptr": "*i64",
        "max_depth": "i32",
        "BLOCK": "constexpr",
    }
    for block, num_warps in CONFIGS:
        yield Compilation(
            "tree_accept", f"{block} rows", _kernel, signature, {"BLOCK": block}, num_warps, 1
        )
