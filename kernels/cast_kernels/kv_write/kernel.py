"""Keys and values into their slots, with conversion to float8 where the cache holds that.

Grid: (N, 2 for keys and values). Tile: the K heads of a row, [BLOCK_K, BLOCK_D]. Bytes moved: k and
v once in, once out, 8 a row for the slot.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs
# ruff: noqa: PLR0913

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from cast_kernels.compilation import Compilation

CONFIGS: Final = (1, 2, 4)  # warps
DEFAULT: Final = 2


def kv_write(
    kv_cache_S2KD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    slot_N: Tensor,
    kv_scale_2K: Tensor | None = None,
    num_warps: int = DEFAULT,
) -> None:
    """See the package. Last dimensions contiguous; k and v laid out alike."""
    num_rows, key_heads, head_dim = k_NKD.shape
    assert k_NKD.stride() == v_NKD.stride(), (k_NKD.stride(), v_NKD.stride())
    assert k_NKD.stride(2) == kv_cache_S2KD.stride(3) == 1
    if num_rows > 0:
        _kernel[(num_rows, 2)](
            k_NKD,
            v_NKD,
            kv_cache_S2KD,
            slot_N,
            kv_scale_2K,
            key_heads,
            k_NKD.stride(0),
            k_NKD.stride(1),
            kv_cache_S2KD.stride(0),
            kv_cache_S2KD.stride(1),
            kv_cache_S2KD.stride(2),
            HAS_SCALE=kv_scale_2K is not None,
            MOST=torch.finfo(kv_cache_S2KD.dtype).max,
            HEAD_DIM=head_dim,
            BLOCK_K=triton.next_power_of_2(key_heads),
            BLOCK_D=triton.next_power_of_2(head_dim),
            num_warps=num_warps,
        )


@triton.jit
def _kernel(
    k_ptr,
    v_ptr,
    cache_ptr,
    slot_ptr,
    scale_ptr,
    key_heads,
    row_stride,
    head_stride,
    slot_stride,
    part_stride,
    key_stride,
    HAS_SCALE: tl.constexpr,
    MOST: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_row, i_part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    slot = tl.load(slot_ptr + i_row)
    if slot < 0:
        return
    o_K, o_D = tl.arange(0, BLOCK_K).to(tl.int64), tl.arange(0, BLOCK_D)
    m_KD = (o_K < key_heads)[:, None] & (o_D < HEAD_DIM)[None, :]
    o_in_KD = i_row * row_stride + o_K[:, None] * head_stride + o_D[None, :]
    in_ptr = k_ptr if i_part == 0 else v_ptr
    x_KD = tl.load(in_ptr + o_in_KD, m_KD)
    if HAS_SCALE:
        scale_K = tl.load(scale_ptr + i_part * key_heads + o_K, o_K < key_heads, other=1.0)
        x_KD = x_KD.to(tl.float32) / scale_K[:, None]
        x_KD = tl.minimum(tl.maximum(x_KD, -MOST), MOST)
    o_out = slot * slot_stride + i_part * part_stride
    o_out_KD = o_out + o_K[:, None] * key_stride + o_D[None, :]
    tl.store(cache_ptr + o_out_KD, x_KD.to(cache_ptr.dtype.element_ty), m_KD)


def compilations() -> Iterator[Compilation]:
    """Every configuration for eight heads of 128, in 16 bits and with both kinds of float8; then
    the default for many heads and for large ones."""
    for kv in ("bf16", "fp8e5", "fp8e4nv"):
        for num_warps in CONFIGS:
            yield _compilation(kv, 8, 128, num_warps)
        yield _compilation(kv, 64, 128, DEFAULT)
        yield _compilation(kv, 16, 256, DEFAULT)


def _compilation(kv: str, key_heads: int, head_dim: int, num_warps: int) -> Compilation:
    constexprs: dict[str, Any] = {"HAS_SCALE": kv != "bf16", "MOST": 448.0, "HEAD_DIM": head_dim}
    constexprs |= {"BLOCK_K": key_heads, "BLOCK_D": head_dim}
    if kv == "bf16":
        constexprs["scale_ptr"] = None
    signature = {"k_ptr": "*bf16", "v_ptr": "*bf16", "cache_ptr": f"*{kv}"}
    signature |= {"slot_ptr": "*i64", "scale_ptr": "*fp32", "key_heads": "i32"}
    strides = ("row_stride", "head_stride", "slot_stride", "part_stride", "key_stride")
    signature |= dict.fromkeys(strides, "i32") | dict.fromkeys(constexprs, "constexpr")
    return Compilation(
        kernel="kv_write",
        case=f"{kv} {key_heads}x{head_dim}, {num_warps} warps",
        fn=_kernel,
        signature=signature,
        constexprs=constexprs,
        num_warps=num_warps,
        num_stages=1,
        aligned=strides,
        large=("cache_ptr",),
        beside=("sm_80",) if kv == "fp8e4nv" else (),
        is_usual=kv == "bf16" and num_warps == DEFAULT,
    )
