"""The spectrum of a text's covariance, the matter that eRank and coding lengths are made of.

In float64 and by the smaller of the two Gram matrices, which have the same eigenvalues but for
zeros: a text of 128 tokens needs no decomposition of a matrix of 768 x 768. A decomposition of the
covariance itself would also add an eigenvalue of rounding for every dimension that no token uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from cast_server.evaluators.base import Undefined

# Shorter than this part of the median, a row is noise: its direction would count as much as any.
_NOISE: Final = 1e-6
# And shorter than this part of the longest row as it came, it is what centring rounded.
_ROUNDING: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of length one, float64, without those that had no direction; and which of all had."""

    rows_ND: Tensor
    has_direction_N: Tensor

    @property
    def num_dropped(self) -> int:
        return len(self.has_direction_N) - len(self.rows_ND)


def unit_rows(representations_ND: Tensor, is_centred: bool = True) -> Rows:
    """Rows of any dtype as vectors of length one, their mean taken out before or not.

    Raises Undefined: fewer_than_2_tokens (if centred) or no_tokens, not_finite, or zero_variance if
    no row differs from the mean; uncentred, zero_norm if all are zero.
    """
    if len(representations_ND) < 1 + is_centred:
        raise Undefined("fewer_than_2_tokens" if is_centred else "no_tokens")
    raw_ND = representations_ND.detach().to("cpu", torch.float64)
    if not raw_ND.isfinite().all():
        raise Undefined("not_finite")
    rows_ND = raw_ND - raw_ND.mean(0) if is_centred else raw_ND
    norms_N = rows_ND.norm(dim=1)
    least = torch.maximum(_NOISE * norms_N.median(), _ROUNDING * raw_ND.norm(dim=1).max())
    has_direction_N = norms_N > least
    kept_ND = rows_ND[has_direction_N] / norms_N[has_direction_N, None]
    if len(kept_ND) < 1 + is_centred:
        raise Undefined("zero_variance" if is_centred else "zero_norm")
    return Rows(kept_ND, has_direction_N)


def eigenvalues(rows_ND: Tensor) -> Tensor:
    """Of the covariance Z^T Z / N, float64 [min(N, D)], ascending, none negative.

    rows_ND: float64, of length one each: the trace is 1, and so is the sum.
    """
    num_rows, num_columns = rows_ND.shape
    gram = rows_ND @ rows_ND.T if num_rows <= num_columns else rows_ND.T @ rows_ND
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    return values / values.sum()


def entropy(probabilities: Tensor) -> float:
    """Shannon's, in nats, of numbers that sum to 1; 0 ln 0 = 0."""
    return float(torch.special.entr(probabilities).sum())
