"""Softmax, then a stable sort: `torch.topk` does not say which of equal values comes first."""

from __future__ import annotations

from torch import Tensor


def log_softmax_topk(logits_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See the package."""
    logits_NV = logits_NV.float()
    index_NK = logits_NV.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return logits_NV.log_softmax(-1).gather(1, index_NK), index_NK
