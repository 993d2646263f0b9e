from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cast_kernels.linear import PackedLinear, WideLinear

DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)]


@pytest.mark.parametrize("leading", [(1,), (4,), (1, 5), (2, 3, 33)])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("dtype", "most"), DTYPES)
def test_equals_linear(dtype, most, has_bias, leading) -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 80).to(dtype)
    bias = torch.randn(48).to(dtype) if has_bias else None
    x = torch.randn(*leading, 80).to(dtype)
    with torch.inference_mode():
        y = PackedLinear(weight, bias)(x)
    right = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert (y.dtype, y.shape) == (dtype, right.shape)
    assert float((y.double() - right).norm() / right.norm()) < most


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
    right = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert y.dtype == torch.float32
    assert float((y.double() - right).norm() / right.norm()) < 1e-6
