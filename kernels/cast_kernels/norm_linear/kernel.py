"""RMS norm and linear layer in one pass over the features.

A row's norm is one factor, so the product does not wait for it: the sum of squares is gathered from
the tiles that the product reads, and scales a segment's share when the segment is complete.
Grid: (N / BLOCK_N, O / BLOCK_O), rows fastest so that neighbours share the weights in L2. Tile:
BLOCK_N x BLOCK_O, in steps of BLOCK_F features. Bytes moved: the weights O * F once a BLOCK_N rows,
which is the floor of a decoding step; x from L2; 4 N * O of output.
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
from cast_kernels.registers import max_registers, register_options


class Config(NamedTuple):
    block_n: int
    block_o: int
    block_f: int
    num_warps: int
    num_stages: int


CONFIGS: Final = (
    Config(16, 32, 128, 4, 4),
    Config(32, 32, 128, 4, 4),
    Config(64, 64, 64, 4, 4),
    Config(128, 64, 64, 8, 3),
)
ODD: Final = CONFIGS[0]  # elements are loaded one by one, each with registers of its own
FLOAT32: Final = Config(16, 32, 32, 4, 3)  # products without tensor cores: registers are the limit


def norm_linear(
    x_NF: Tensor,
    folded_OF: Tensor,
    eps: float | None,
    num_segments: int = 1,
    config: Config | None = None,
) -> Tensor:
    """See the package. Last dimensions contiguous.

    Strides and segments that are no multiples of 16 have one configuration, the smallest.
    """
    (num_rows, num_in), num_out = x_NF.shape, len(folded_OF)
    assert x_NF.dtype == folded_OF.dtype, (x_NF.dtype, folded_OF.dtype)
    assert x_NF.stride(1) == folded_OF.stride(1) == 1, (x_NF.stride(), folded_OF.stride())
    assert num_in % num_segments == 0, (num_in, num_segments)
    is_aligned = _is_aligned(x_NF.stride(0), folded_OF.stride(0), num_in // num_segments)
    if config is None:
        config = _choose(num_rows, x_NF.dtype, is_aligned)
    assert is_aligned or config in (ODD, FLOAT32), f"{config} would spill registers with odd sizes"
    y_NO = torch.empty((num_rows, num_out), dtype=torch.float32, device=x_NF.device)
    grid = (triton.cdiv(num_rows, config.block_n), triton.cdiv(num_out, config.block_o))
    if num_rows > 0:
        _kernel[grid](
            x_NF,
            folded_OF,
            y_NO,
            num_rows,
            num_out,
            num_in // num_segments,
            x_NF.stride(0),
            folded_OF.stride(0),
            0.0 if eps is None else eps,
            HAS_NORM=eps is not None,
            IS_INTERPRETED=x_NF.device.type == "cpu",
            SEGMENTS=num_segments,
            BLOCK_N=config.block_n,
            BLOCK_O=config.block_o,
            BLOCK_F=config.block_f,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **register_options(x_NF.device, config.num_warps),
        )
    return y_NO


def _is_aligned(*sizes: int) -> bool:
    """Whether loads may be of 16 bytes, which is what Triton makes of multiples of 16."""
    return all(size % 16 == 0 for size in sizes)


def _choose(num_rows: int, dtype: torch.dtype, is_aligned: bool) -> Config:
    if dtype == torch.float32:
        return FLOAT32
    if not is_aligned:
        return ODD
    return next((one for one in CONFIGS if one.block_n >= num_rows), CONFIGS[-1])


@triton.jit
def _kernel(
    x_ptr,
    weight_ptr,
    y_ptr,
    num_rows,
    num_out,
    segment_size,
    x_stride,
    weight_stride,
    eps,
    HAS_NORM: tl.constexpr,
    IS_INTERPRETED: tl.constexpr,
    SEGMENTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    o_N = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_O = tl.program_id(1).to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    m_N, m_O = o_N < num_rows, o_O < num_out
    y_NO = tl.zeros([BLOCK_N, BLOCK_O], tl.float32)
    for i_segment in range(SEGMENTS):
        part_NO = tl.zeros([BLOCK_N, BLOCK_O], tl.float32)
        squares_NF = tl.zeros([BLOCK_N, BLOCK_F], tl.float32)
        for begin in range(0, segment_size, BLOCK_F):
            o_F = begin + tl.arange(0, BLOCK_F)
            m_F = o_F < segment_size
            o_F += i_segment * segment_size
            o_x_NF = o_N[:, None] * x_stride + o_F[None, :]
            x_NF = tl.load(x_ptr + o_x_NF, m_N[:, None] & m_F[None, :], other=0.0)
            o_weight_FO = o_O[None, :] * weight_stride + o_F[:, None]
            weight_FO = tl.load(weight_ptr + o_weight_FO, m_O[None, :] & m_F[:, None], other=0.0)
            if IS_INTERPRETED:  # Triton's interpreter multiplies bfloat16 as if it were uint16
                x_NF, weight_FO = x_NF.to(tl.float32), weight_FO.to(tl.float32)
            part_NO = tl.dot(x_NF, weight_FO, part_NO, input_precision="ieee")
            if HAS_NORM:
                squares_NF += x_NF.to(tl.float32) * x_NF.to(tl.float32)
        if HAS_NORM:
            part_NO *= tl.rsqrt(tl.sum(squares_NF, 1) / segment_size + eps)[:, None]
        y_NO += part_NO
    tl.store(y_ptr + o_N[:, None] * num_out + o_O[None, :], y_NO, m_N[:, None] & m_O[None, :])


def compilations() -> Iterator[Compilation]:
    """Every configuration, without a norm, with one and with three."""
    for config in CONFIGS:
        for segments in (0, 1, 3):
            yield _compilation(config, "bf16", segments, is_aligned=True)
    for segments in (0, 1, 3):
        yield _compilation(ODD, "bf16", segments, is_aligned=False)
        yield _compilation(FLOAT32, "fp32", segments, is_aligned=True)
        yield _compilation(FLOAT32, "fp32", segments, is_aligned=False)


def _compilation(config: Config, element: str, segments: int, *, is_aligned: bool) -> Compilation:
    signature = {"x_ptr": f"*{element}", "weight_ptr": f"*{element}", "y_ptr": "*fp32"}
    sizes = ("segment_size", "x_stride", "weight_stride")
    signature |= dict.fromkeys(("num_rows", "num_out", *sizes), "i32") | {"eps": "fp32"}
    constexprs = {"HAS_NORM": segments > 0, "IS_INTERPRETED": False, "SEGMENTS": max(1, segments)}
    constexprs |= {"BLOCK_N": config.block_n, "BLOCK_O": config.block_o, "BLOCK_F": config.block_f}
    tile = f"{element} {config.block_n}x{config.block_o}x{config.block_f}, {segments} norms"
    return Compilation(
        kernel="norm_linear",
        case=tile + ("" if is_aligned else ", odd sizes"),
        fn=_kernel,
        signature=signature | dict.fromkeys(constexprs, "constexpr"),
        constexprs=constexprs,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        aligned=sizes if is_aligned else (),
        max_registers=max_registers(config.num_warps),
        is_usual=is_aligned and segments == 3,
    )
