"""The kernel against norm and product in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from cast_kernels.norm_linear import kernel as norm_linear_kernel
from cast_kernels.norm_linear import norm_linear, parity
from cast_kernels.parity import MOST

FUNCTIONS = [norm_linear, norm_linear_kernel.norm_linear]
# (rows, features in, features out, segments)
SHAPES = [(1, 48, 16, 1), (1, 129, 33, 3), (5, 300, 70, 3), (35, 130, 65, 2), (0, 16, 16, 1)]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("eps", [None, 1e-6, 10.0])
@pytest.mark.parametrize("dtype", MOST)
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_then_linear(shape, dtype, eps, function, sent) -> None:
    rows, num_in, num_out, segments = shape
    arguments = sent(*parity.sample(rows, num_in, num_out, dtype, seed=rows + num_in))
    parity.check(function, *arguments, eps, segments)


@pytest.mark.parametrize("config", norm_linear_kernel.CONFIGS)
def test_every_configuration(config, sent) -> None:
    arguments = sent(*parity.sample(20, 3 * 80, 40, torch.bfloat16))
    parity.check(partial(norm_linear_kernel.norm_linear, config=config), *arguments, 1e-6, 3)


@pytest.mark.parametrize("config", norm_linear_kernel.CONFIGS[1:])
def test_odd_sizes_have_the_smallest_configuration_alone(config) -> None:
    x, weight, norm = parity.sample(20, 3 * 70, 40, torch.bfloat16)
    function = partial(norm_linear_kernel.norm_linear, config=norm_linear_kernel.ODD)
    parity.check(function, x, weight, norm, 1e-6, 3)
    with pytest.raises(AssertionError, match="would spill registers"):
        norm_linear_kernel.norm_linear(x, weight, 1e-6, 3, config)


def test_rows_are_spread_out_and_what_lies_between_is_not_read() -> None:
    x, weight, norm = parity.sample(6, 50, 20, torch.float32)
    spread = torch.full((6, 80), torch.nan)
    spread[:, :50] = x
    parity.check(norm_linear_kernel.norm_linear, spread[::2, :50], weight, norm, 1e-6, 1)
