"""What each token adds to those before it (arXiv 2402.03471), by one Cholesky decomposition.

    A = sum of z z^T over the tokens before + ridge I
    gain = ln det(A + z z^T) - ln det A = ln(1 + r / ridge)
    r = min over b of |z - Z^T b|^2 + ridge |b|^2: what ridge regression on those before leaves

A pivot of the decomposition of Z Z^T + ridge I is ridge + r, so its diagonal has every token's
gain: N^3 / 3 operations for all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cast_server.evaluators.measures.spectrum import unit_rows


def information_gains(representations_ND: Tensor, ridge: float) -> Tensor:
    """Nats a token, float64 [N], in the order of the text; rows are scaled to length one, not
    centred, for a mean would know of tokens to come. A row without direction gains nothing.

    ridge: above 0. The first gain always is ln(1 + 1 / ridge), the largest possible one.
    Raises Undefined: no_tokens, zero_norm or not_finite.
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be above 0, got {ridge}")
    unit = unit_rows(representations_ND, is_centred=False)
    gram_MM = unit.rows_ND @ unit.rows_ND.T
    gram_MM.diagonal().add_(ridge)
    pivots_M = torch.linalg.cholesky(gram_MM).diagonal().square()
    gains_N = torch.zeros(len(unit.has_direction_N), dtype=torch.float64)
    gains_N[unit.has_direction_N] = (pivots_M / ridge).clamp(min=1).log()
    return gains_N
