"""Near norm and product in float64, with the norm's weights where they belong."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cast_kernels.norm_linear.reference import fold_norm
from cast_kernels.parity import MOST, MismatchError, expect_near


def sample(
    rows: int, features: int, outputs: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, weights and the norm's weights."""
    generator = torch.Generator().manual_seed(seed)
    # Taps of unequal size, which is what norms are for.
    scale_F = torch.linspace(0.5, 20.0, features)
    x_NF = (torch.randn(rows, features, generator=generator) * scale_F).to(dtype)
    weight_OF = torch.randn(outputs, features, generator=generator).to(dtype)
    return x_NF, weight_OF, torch.rand(features, generator=generator) + 0.5


def check(
    function: Callable[[Tensor, Tensor, float | None, int], Tensor],
    x_NF: Tensor,
    weight_OF: Tensor,
    norm_F: Tensor,
    eps: float | None,
    segments: int,
) -> None:
    """Raises `MismatchError`."""
    folded_OF = weight_OF if eps is None else fold_norm(weight_OF, norm_F)
    y_NO = function(x_NF, folded_OF, eps, segments)
    if y_NO.dtype != torch.float32:
        raise MismatchError(f"outputs: are {y_NO.dtype}, have to be torch.float32")
    right_NO = _right(x_NF, weight_OF, norm_F, eps, segments)
    expect_near("outputs", y_NO, right_NO, MOST[x_NF.dtype])


def _right(
    x_NF: Tensor, weight_OF: Tensor, norm_F: Tensor, eps: float | None, segments: int
) -> Tensor:
    x_NF = x_NF.double()
    if eps is not None:
        x_NSG = x_NF.unflatten(1, (segments, -1))
        x_NF = F.rms_norm(x_NSG, x_NSG.shape[-1:], eps=eps).flatten(1) * norm_F.double()
    return x_NF @ weight_OF.double().T
