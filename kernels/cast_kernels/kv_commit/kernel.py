"""All moves of all sequences in all layers at once.

Grid: (B, Y, 2 K D * item size / 4 / BLOCK_E). Tile: the M moves of a sequence by BLOCK_E words of 4
bytes, read before the barrier and written behind it. Bytes moved: every moved slot once in, once
out; 16 a move for the slots in every program.
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
    max_moves: int
    block_e: int
    num_warps: int


CONFIGS: Final = (Config(8, 256, 4), Config(32, 128, 4), Config(128, 64, 8))
MAX_MOVES: Final = CONFIGS[-1].max_moves


def kv_commit(kv_cache_YS2KD: Tensor, source_BM: Tensor, target_BM: Tensor) -> None:
    """See the package. At most `MAX_MOVES` moves a sequence."""
    source_BM, target_BM = torch.atleast_2d(source_BM), torch.atleast_2d(target_BM)
    batch, moves = source_BM.shape
    assert moves <= MAX_MOVES, f"at most {MAX_MOVES} moves a sequence, got {moves}"
    assert source_BM.is_contiguous()
    assert target_BM.is_contiguous()
    words_YSE = kv_cache_YS2KD.flatten(2).view(torch.int32)
    layers, _, words = words_YSE.shape
    _, block_e, num_warps = next(one for one in CONFIGS if one.max_moves >= moves)
    if batch * moves == 0:
        return
    _kernel[(batch, layers, triton.cdiv(words, block_e))](
        words_YSE,
        source_BM,
        target_BM,
        moves,
        words,
        words_YSE.stride(0),
        words_YSE.stride(1),
        BLOCK_M=triton.next_power_of_2(moves),
        BLOCK_E=block_e,
        num_warps=num_warps,
    )


@triton.jit
def _kernel(
    cache_ptr,
    source_ptr,
    target_ptr,
    moves,
    words,
    layer_stride,
    slot_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    i_sequence, i_layer = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    o_M, o_E = tl.arange(0, BLOCK_M), tl.program_id(2) * BLOCK_E + tl.arange(0, BLOCK_E)
    source_M = tl.load(source_ptr + i_sequence * moves + o_M, o_M < moves, other=-1)
    target_M = tl.load(target_ptr + i_sequence * moves + o_M, o_M < moves, other=-1)
    m_ME = (source_M >= 0)[:, None] & (o_E < words)[None, :]
    layer_ptr = cache_ptr + i_layer * layer_stride
    word_ME = tl.load(layer_ptr + source_M[:, None] * slot_stride + o_E[None, :], m_ME)
    tl.debug_barrier()  # one thread's target may be another's source
    tl.store(layer_ptr + target_M[:, None] * slot_stride + o_E[None, :], word_ME, m_ME)


def compilations() -> Iterator[Compilation]:
    """Every configuration at its limit."""
    signature = {"cache_ptr": "*i32", "source_ptr": "*i64", "target_ptr": "*i64"}
    signature |= {"moves": "i32", "words": "i32", "layer_stride": "i64", "slot_stride": "i32"}
    signature |= {"BLOCK_M": "constexpr", "BLOCK_E": "constexpr"}
    aligned = ("words", "layer_stride", "slot_stride")
    for moves, block_e, num_warps in CONFIGS:
        blocks = {"BLOCK_M": moves, "BLOCK_E": block_e}
        yield Compilation(
            "kv_commit",
            f"{moves} moves",
            _kernel,
            signature,
            blocks,
            num_warps,
            1,
            aligned,
            large=("cache_ptr",),
        )
