"""The kernel against norm and product in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cast_kernels.norm_linear import fold_norm, norm_linear
from cast_kernels.norm_linear import kernel as norm_linear_kernel

FUNCTIONS = [norm_linear, norm_linear_kernel.norm_linear]
DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)]
# (rows, features in, features out, segments)
SHAPES = [(1, 48, 16, 1), (1, 129, 33, 3), (5, 300, 70, 3), (35, 130, 65, 2), (0, 16, 16, 1)]


def make(rows, num_in, num_out, dtype):
    torch.manual_seed(rows + num_in)
    scale = torch.linspace(0.5, 20.0, num_in)  # taps of unequal size, which is what norms are for
    x = (torch.randn(rows, num_in) * scale).to(dtype)
    return x, torch.randn(num_out, num_in).to(dtype), torch.rand(num_in) + 0.5


def right(x, weight, norm, eps, segments):
    x = x.double()
    if eps is not None:
        parts = x.unflatten(1, (segments, -1))
        x = F.rms_norm(parts, parts.shape[-1:], eps=eps).flatten(1) * norm.double()
    return x @ weight.double().T


def relative_error(y, expected) -> float:
    return float((y.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("eps", [None, 1e-6, 10.0])
@pytest.mark.parametrize(("dtype", "most"), DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_then_linear(shape, dtype, most, eps, function) -> None:
    rows, num_in, num_out, segments = shape
    x, weight, norm = make(rows, num_in, num_out, dtype)
    folded = weight if eps is None else fold_norm(weight, norm)
    y = function(x, folded, eps, segments)
    assert (y.dtype, y.shape) == (torch.float32, (rows, num_out))
    assert relative_error(y, right(x, weight, norm, eps, segments)) < most


@pytest.mark.parametrize("config", norm_linear_kernel.CONFIGS)
def test_every_configuration(config) -> None:
    x, weight, norm = make(20, 3 * 70, 40, torch.bfloat16)
    y = norm_linear_kernel.norm_linear(x, fold_norm(weight, norm), 1e-6, 3, config)
    assert relative_error(y, right(x, weight, norm, 1e-6, 3)) < 1e-2


def test_rows_are_spread_out_and_what_lies_between_is_not_read() -> None:
    x, weight, norm = make(6, 50, 20, torch.float32)
    spread = torch.full((6, 80), torch.nan)
    spread[:, :50] = x
    y = norm_linear_kernel.norm_linear(spread[::2, :50], fold_norm(weight, norm), 1e-6)
    assert relative_error(y, right(x[::2], weight, norm, 1e-6, 1)) < 1e-5
