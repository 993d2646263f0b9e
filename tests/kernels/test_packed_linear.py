from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cast_kernels.linear import NarrowLinear, PackedLinear, WideLinear, parity, widens_halves
from cast_kernels.parity import MOST


@pytest.mark.parametrize("leading", [(1,), (4,), (1, 5), (2, 3, 33)])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", MOST)
def test_equals_linear(dtype, has_bias, leading) -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 80).to(dtype)
    bias = torch.randn(48).to(dtype) if has_bias else None
    x = torch.randn(*leading, 80).to(dtype)
    parity.check(PackedLinear(weight, bias), weight, bias, x)


def test_weights_that_are_not_contiguous() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(80, 48).t(), torch.randn(3, 80)
    layer = PackedLinear(weight)
    assert (layer.out_features, layer.in_features) == (48, 80)
    with torch.inference_mode():
        assert torch.allclose(layer(x), x @ weight.t(), atol=1e-4)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e5])  # 1e5 does not fit into float16
def test_wide_products_are_float32_and_the_same_in_any_company(dtype, has_bias, scale) -> None:
    torch.manual_seed(0)
    bound = torch.finfo(dtype).max
    weight = (torch.randn(300, 80) * scale).clamp(-bound, bound).to(dtype)
    bias = torch.randn(300).to(dtype) if has_bias else None
    layer, x = WideLinear(weight, bias), torch.randn(33, 80)
    with torch.inference_mode():
        y = layer(x)
        for rows in (1, 2, 3, 4, 7, 16):
            assert torch.equal(layer(x[:rows]), y[:rows]) or dtype == torch.float32, rows
    parity.check_wide(layer, weight, bias, x)


x86 = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="FBGEMM is for x86"
)


@x86
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_products_are_near(dtype, has_bias) -> None:
    torch.manual_seed(0)
    weight = torch.randn(300, 80).to(dtype)
    weight[7] = 0  # of which no scale can be told
    bias = torch.randn(300).to(dtype) if has_bias else None
    x = torch.randn(2, 33, 80).to(dtype)
    layer = NarrowLinear(weight, bias)
    assert (layer.out_features, layer.in_features) == (300, 80)
    with torch.inference_mode():
        y = layer(x)
    right = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    assert y.dtype == torch.float32
    assert (y - right).norm() < 0.02 * right.norm()


@x86
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_costs_narrow_products_no_other_row(value) -> None:
    torch.manual_seed(0)
    layer, x = NarrowLinear(torch.randn(300, 80)), torch.randn(3, 80)
    with torch.inference_mode():
        right = layer(x)[1:]
        x[0] = value
        assert torch.allclose(layer(x)[1:], right, atol=0.5)


@x86
def test_only_halves_that_fit_are_widened_for_nothing() -> None:
    weight = torch.randn(300, 80)
    assert not widens_halves(weight)
    assert widens_halves(weight.bfloat16())
    assert not widens_halves(weight.bfloat16() * 1e5)
