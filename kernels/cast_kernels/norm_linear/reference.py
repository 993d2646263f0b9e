"""Norm first, then the product, in float32."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def fold_norm(weight_OF: Tensor, norm_F: Tensor) -> Tensor:
    """The linear weight that reads features which were normalised, but not yet weighted."""
    return (weight_OF.float() * norm_F.float()).to(weight_OF.dtype)


def norm_linear(
    x_NF: Tensor, folded_OF: Tensor, eps: float | None, num_segments: int = 1
) -> Tensor:
    """See the package."""
    x_NF = x_NF.float()
    if eps is not None:
        x_NSG = x_NF.unflatten(1, (num_segments, -1))
        x_NF = F.rms_norm(x_NSG, x_NSG.shape[-1:], eps=eps).flatten(1)
    return x_NF @ folded_OF.float().T
