"""Near the product in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from cast_kernels.parity import MOST, MismatchError, expect_near

WIDE_MOST: Final = 1e-6  # weights are kept exactly, the product is float32


def sample(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Weights, and rows of the same type."""
    generator = torch.Generator().manual_seed(seed)
    weight_OE = torch.randn(outputs, inputs, generator=generator).to(dtype)
    return weight_OE, torch.randn(rows, inputs, generator=generator).to(dtype)


def check(
    layer: Callable[[Tensor], Tensor], weight_OE: Tensor, bias_O: Tensor | None, x: Tensor
) -> None:
    """Of a layer that keeps the type of its input. Raises `MismatchError`."""
    _check(layer, weight_OE, bias_O, x, weight_OE.dtype, MOST[weight_OE.dtype])


def check_wide(
    layer: Callable[[Tensor], Tensor], weight_OE: Tensor, bias_O: Tensor | None, x: Tensor
) -> None:
    """Of a layer that returns float32; x is float32. Raises `MismatchError`."""
    _check(layer, weight_OE, bias_O, x, torch.float32, WIDE_MOST)


def _check(
    layer: Callable[[Tensor], Tensor],
    weight_OE: Tensor,
    bias_O: Tensor | None,
    x: Tensor,
    dtype: torch.dtype,
    most: float,
) -> None:
    with torch.inference_mode():
        y = layer(x)
    if y.dtype != dtype:
        raise MismatchError(f"outputs: are {y.dtype}, have to be {dtype}")
    right = F.linear(x.double(), weight_OE.double(), None if bias_O is None else bias_O.double())
    expect_near("outputs", y, right, most)
