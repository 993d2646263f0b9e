"""See the package."""

from __future__ import annotations

import warnings
from typing import Any, Final

import torch
from torch import Tensor, nn

_LARGEST: Final = 127  # of an int8 weight, on either side of zero


class NarrowLinear(nn.Module):
    """weight_OE of any float dtype, kept as int8 with a scale for each output.

    Takes any float dtype and returns float32 [..., O]. Rows are rounded to 7 or 8 bits over the
    range of the whole call, so what becomes of one depends a little on those beside it.
    """

    def __init__(self, weight_OE: Tensor, bias_O: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OE.shape
        weight = weight_OE.detach().float()
        scale_O = (weight.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        zero_O = torch.zeros(len(weight), dtype=torch.int64)
        bias = None if bias_O is None else bias_O.detach().float()
        self._ops: Any = torch.ops.quantized
        # Where there is no VNNI, sums of two products of 8 bits would overflow.
        self._reduce_range = not torch.cpu._is_vnni_supported()  # noqa: SLF001
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            narrow = torch.quantize_per_channel(weight, scale_O, zero_O, 0, torch.qint8)
            self._packed = self._ops.linear_prepack(narrow, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.float().nan_to_num(0.0, 0.0, 0.0)  # its range must be finite
        y: Tensor = self._ops.linear_dynamic(x, self._packed, self._reduce_range)
        return y
