"""The tokens that win with all of the noise, none of it left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cast_kernels.gumbel.reference import gumbel_noise
from cast_kernels.parity import expect_close, expect_equal


def sample(
    rows: int, vocabulary: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, seeds and positions."""
    generator = torch.Generator().manual_seed(seed)
    scores_RV = (torch.randn(rows, vocabulary, generator=generator) * 3).to(dtype)
    seed_R = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator)
    return scores_RV, seed_R, torch.randint(0, 2**33, (rows,), generator=generator)


def check(
    function: Callable[[Tensor, Tensor, Tensor], Tensor | tuple[Tensor, Tensor]],
    scores_RV: Tensor,
    seed_R: Tensor,
    position_R: Tensor,
) -> None:
    """`function` gives tokens, or tokens and their log-probabilities. Raises `MismatchError`."""
    out = function(scores_RV, seed_R, position_R)
    token_R, log_prob_R = out if isinstance(out, tuple) else (out, None)
    expect_equal("tokens", token_R, unpruned_argmax(scores_RV, seed_R, position_R))
    if log_prob_R is not None:
        expect_close("log-probabilities", log_prob_R, log_prob(scores_RV, token_R))


def unpruned_argmax(scores_RV: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
    """A row at a time, as noise for all of a vocabulary is large."""
    token_V = torch.arange(scores_RV.shape[1], device=scores_RV.device)
    best = [
        (scores_V.double() + gumbel_noise(seed, position, token_V)).argmax()
        for scores_V, seed, position in zip(scores_RV, seed_R, position_R, strict=True)
    ]
    return torch.stack(best) if best else seed_R


def log_prob(scores_RV: Tensor, token_R: Tensor) -> Tensor:
    """Of the softmax of the scores, float32."""
    return scores_RV.double().log_softmax(-1).gather(1, token_R[:, None])[:, 0].float()
