"""Bit by bit as the reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cast_kernels.frontier.reference import frontier
from cast_kernels.parity import expect_equal


def sample(batch: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-probabilities, three in ten of them closed, and log-weights."""
    generator = torch.Generator().manual_seed(seed)
    log_probs_BC = -torch.rand(batch, width, generator=generator).mul(150)
    log_probs_BC[torch.rand(batch, width, generator=generator) < 0.3] = -torch.inf
    return log_probs_BC, torch.randn(batch, generator=generator)


def check(
    function: Callable[..., tuple[Tensor, Tensor]],
    log_probs_BC: Tensor,
    log_weights_B: Tensor,
    num_rows: int,
) -> None:
    """Raises `MismatchError`."""
    right = frontier(log_probs_BC, log_weights_B, num_rows)
    out = function(log_probs_BC, log_weights_B, num_rows)
    for what, one, other in zip(("nodes", "counts"), out, right, strict=True):
        expect_equal(what, one, other)
