"""The reference's tokens, and its log-probabilities but for their last bits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cast_kernels.log_softmax_topk.reference import log_softmax_topk
from cast_kernels.parity import expect_close, expect_equal


def sample(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Logits."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocabulary, generator=generator) * 4).to(dtype)


def check(
    function: Callable[[Tensor, int], tuple[Tensor, Tensor]], logits_NV: Tensor, k: int
) -> None:
    """Raises `MismatchError`."""
    values_NK, indices_NK = function(logits_NV, k)
    right_values_NK, right_indices_NK = log_softmax_topk(logits_NV, k)
    expect_equal("tokens", indices_NK, right_indices_NK)
    expect_close("log-probabilities", values_NK, right_values_NK)
