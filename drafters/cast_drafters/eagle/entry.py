"""How an EAGLE-3 head takes in what it is shown of the target: taps [M, E] to one state [M, H]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cast_drafters.eagle.config import HeadConfig
from cast_kernels.backend import Backend
from cast_kernels.linear import PackedLinear
from cast_kernels.norm_linear import fold_norm

Entry = Callable[[Sequence[Tensor]], Tensor]


def make_entry(
    config: HeadConfig, weight: Mapping[str, Tensor], dtype: torch.dtype, backend: Backend
) -> Entry:
    """Norm and product in one on backends that read fixed arrays, as those of GPUs do; else one
    after the other, the product packed."""
    has_both = config.fc_norm and config.norm_before_fc
    make = _fused if backend.is_static and not has_both else _stepwise
    return make(config, weight, dtype, backend)


def _stepwise(
    config: HeadConfig,
    weight: Mapping[str, Tensor],
    dtype: torch.dtype,
    backend: Backend,  # noqa: ARG001 - torch's own norm and a packed product
) -> Entry:
    bias_H = weight.get("fc.bias")
    fc = PackedLinear(weight["fc.weight"].to(dtype), None if bias_H is None else bias_H.to(dtype))
    norms = {name: one.float() for name, one in weight.items() if "norm" in name}

    def norm(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x.float(), norms[name].shape, norms[name], config.rms_norm_eps)

    def entry(hidden: Sequence[Tensor]) -> Tensor:
        if config.fc_norm:
            hidden = [norm(x, f"fc_norm.{i}.weight") for i, x in enumerate(hidden)]
        fused_MF = torch.cat([x.float() for x in hidden], -1)
        if config.norm_before_fc:
            fused_MF = norm(fused_MF, "input_norm.weight")
        fused_MH: Tensor = fc(fused_MF.to(dtype)).float()
        return fused_MH

    return entry


def _fused(
    config: HeadConfig, weight: Mapping[str, Tensor], dtype: torch.dtype, backend: Backend
) -> Entry:
    segments, norm_F = 1, weight.get("input_norm.weight")
    if config.fc_norm:
        segments = len(config.layer_ids)
        norm_F = torch.cat([weight[f"fc_norm.{i}.weight"] for i in range(segments)])
    folded_HF = weight["fc.weight"].to(dtype)
    if norm_F is not None:
        folded_HF = fold_norm(folded_HF, norm_F)
    eps = None if norm_F is None else config.rms_norm_eps
    bias_H = weight["fc.bias"].float() if "fc.bias" in weight else None

    def entry(hidden: Sequence[Tensor]) -> Tensor:
        taps_MF = torch.cat([x.to(dtype) for x in hidden], -1)
        fused_MH = backend.norm_linear(taps_MF, folded_HF, eps, segments)
        return fused_MH if bias_H is None else fused_MH + bias_H

    return entry
