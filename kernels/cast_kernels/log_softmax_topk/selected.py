"""Softmax, then torch's own selection: what a CPU runs."""

from __future__ import annotations

from torch import Tensor


def log_softmax_topk(logits_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As the package says, for any k, but that equal logits come in any order."""
    top = logits_NV.log_softmax(-1).topk(k)
    return top.values, top.indices
