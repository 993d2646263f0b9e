"""eRank of a text: in how many directions its tokens spread (arXiv 2401.17139; Roy and Vetterli).

u_i = (z_i - mean z) / |z_i - mean z|      Sigma = 1/N sum u_i u_i^T      H = -tr Sigma ln Sigma
eRank = exp H, between 1 and min(N - 1, D): centring takes a direction out
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cast_server.evaluators.measures.spectrum import eigenvalues, entropy, unit_rows


@dataclass(frozen=True, slots=True)
class EffectiveRank:
    """num_tokens: those that count, without `num_dropped` that are the mean itself.
    largest: what eRank can be at most. participation_ratio: 1 / sum of squared eigenvalues.
    eigenvalues: of Sigma, falling; their sum is 1."""

    num_tokens: int
    num_dropped: int
    entropy: float
    erank: float
    largest: int
    participation_ratio: float
    eigenvalues: tuple[float, ...]

    @property
    def normalised(self) -> float:
        """eRank over the largest possible one."""
        return self.erank / self.largest

    @property
    def entropy_gap(self) -> float:
        """ln of the largest possible eRank, less the entropy (after arXiv 2502.20763)."""
        return math.log(self.largest) - self.entropy


def measure(representations_ND: Tensor) -> EffectiveRank:
    """Of one text's tokens, any dtype. Raises Undefined: fewer_than_2_tokens, zero_variance or
    not_finite."""
    unit = unit_rows(representations_ND)
    num_tokens, num_columns = unit.rows_ND.shape
    values = eigenvalues(unit.rows_ND)
    nats = entropy(values)
    return EffectiveRank(
        num_tokens=num_tokens,
        num_dropped=unit.num_dropped,
        entropy=nats,
        erank=math.exp(nats),
        largest=min(num_tokens - 1, num_columns),
        participation_ratio=1 / float(values.square().sum()),
        eigenvalues=tuple(values.flip(0).tolist()),
    )


def effective_rank(representations_ND: Tensor) -> float:
    """eRank of one text's tokens, [tokens, features] of any dtype, computed in float64.

    Raises Undefined (a ValueError) for fewer than two tokens, tokens that are all the same, or what
    is not finite.
    """
    if representations_ND.ndim != 2:
        raise ValueError(
            f"representations must be [tokens, features], got {tuple(representations_ND.shape)}"
        )
    return measure(representations_ND).erank


def norm_ratio(representations_ND: Tensor) -> float | None:
    """The longest token over the median one: far above 1 where a token is an attention sink.
    None if the median one has no length."""
    norms_N = representations_ND.detach().to("cpu", torch.float64).norm(dim=1)
    median = float(norms_N.median()) if len(norms_N) else 0.0
    return float(norms_N.max()) / median if median > 0 else None
