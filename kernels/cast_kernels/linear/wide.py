"""See the package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cast_kernels.linear.packed import PackedLinear

_HALF_STEP: Final = 2.0**-24  # between neighbouring float16 numbers around zero
_BLOCK: Final = 512  # columns that FBGEMM lays out together, the last ones filled up


class WideLinear(nn.Module):
    """weight_OE of any float dtype; takes any float dtype and returns float32 [..., O].

    FBGEMM (x86) reads float16 weights and multiplies in float32, as fast as bfloat16 for few rows.
    bfloat16 weights fit into float16 unless they are huge; otherwise they are kept as float32.
    """

    def __init__(self, weight_OE: Tensor, bias_O: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OE.shape
        weight = weight_OE.detach().float().contiguous()
        bias = None if bias_O is None else bias_O.detach().float()
        make = _fbgemm if widens_halves(weight_OE) else _packed
        self._multiply = make(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._multiply(x.float())


def widens_halves(weight_OE: Tensor) -> bool:
    """Whether float32 rows take no longer than rows of the weights' own type, and any number of
    rows gives the same results to the bit."""
    return can_widen(weight_OE.dtype, weight_OE.device) and _fits_half(weight_OE)


def can_widen(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `widens_halves` holds of usual weights there, which are not huge."""
    is_half = dtype in (torch.bfloat16, torch.float16)
    return (
        is_half and device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
    )


def wide_bytes(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> int:
    """What a `WideLinear` of usual weights [O, E] keeps them in."""
    rows, columns = shape
    if not can_widen(dtype, device):
        return 4 * rows * columns
    return 2 * rows * (-(-columns // _BLOCK) * _BLOCK)


def _fits_half(weight: Tensor) -> bool:
    wide = weight.float()
    return bool(((wide.half().float() - wide).abs() <= _HALF_STEP).all())


def _fbgemm(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    ops: Any = torch.ops.quantized
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = ops.linear_prepack_fp16(weight, bias)
    return lambda x: ops.linear_dynamic_fp16(x, packed)


def _packed(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    if weight.device.type == "cpu":
        return PackedLinear(weight, bias)
    return lambda x: F.linear(x, weight, bias)
