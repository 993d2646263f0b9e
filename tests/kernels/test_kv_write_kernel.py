"""Kernel and reference against a loop."""

from __future__ import annotations

import pytest
import torch

from cast_kernels.kv_write import kernel as kv_write_kernel
from cast_kernels.kv_write import kv_write, parity

FUNCTIONS = [kv_write, kv_write_kernel.kv_write]
DTYPES = [torch.float32, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 3])
def test_rows_land_in_their_slots(function, dtype, heads, sent) -> None:
    torch.manual_seed(0)
    cache = torch.full((9, 2, heads, 20), 7.0).to(dtype)
    # Numbers that float8 holds too: Triton's interpreter rounds to it in its own ways.
    numbers = torch.randn(2, 5, heads, 24).to(dtype).to(torch.bfloat16)
    numbers[numbers.abs() < 0.1] = 0.25
    k, v = numbers[..., :20].unbind(0)
    k[0] *= 1e6  # beyond what float8 holds
    slots = torch.tensor([4, -1, 0, 8, -1])
    scale = 2.0 ** torch.randint(-2, 3, (2, heads)) if dtype.itemsize == 1 else None
    cache, k, v, slots = sent(cache, k, v, slots)
    parity.check(function, cache, k, v, slots, None if scale is None else scale.to(k.device))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_to_write(function) -> None:
    cache = torch.zeros(3, 2, 1, 16)
    function(cache, cache[:0, 0], cache[:0, 1], torch.zeros(0, dtype=torch.int64))
    assert not cache.any()
