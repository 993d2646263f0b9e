"""See the package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """weight_OE [out, in] and bias_O [out] or None, as in `torch.nn.Linear`."""

    def __init__(self, weight_OE: Tensor, bias_O: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OE.shape
        self._is_packed = _can_pack(weight_OE)
        weight = weight_OE.detach().contiguous()
        # Attributes, not parameters: oneDNN's opaque layout supports neither copies nor casts.
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight) if self._is_packed else weight  # noqa: SLF001
        )
        self._bias = None if bias_O is None else bias_O.detach()

    def forward(self, x: Tensor) -> Tensor:
        if not self._is_packed:
            return F.linear(x, self._weight, self._bias)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            x, self._weight, self._bias, "none", [], ""
        )
        return y


def _can_pack(weight: Tensor) -> bool:
    is_supported = weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    )
    return weight.device.type == "cpu" and is_supported and torch.backends.mkldnn.is_available()
