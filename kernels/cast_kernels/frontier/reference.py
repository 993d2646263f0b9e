"""A stable sort of everything."""

from __future__ import annotations

import torch
from torch import Tensor


def frontier(log_probs_BC: Tensor, log_weights_B: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """See the package."""
    batch, width = log_probs_BC.shape
    worth = (log_probs_BC + log_weights_B[:, None]).flatten()
    order = worth.sort(dim=-1, descending=True, stable=True).indices[:num_rows]
    chosen = order[worth[order] > -torch.inf].sort().values
    flat_W = torch.full((num_rows,), -1, dtype=torch.int64, device=worth.device)
    flat_W[: len(chosen)] = chosen
    counts_B = torch.bincount(chosen // max(width, 1), minlength=batch)
    return flat_W, counts_B.int()
