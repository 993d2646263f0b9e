"""How many nats a text's vectors take up to an error (arXiv 2402.03471, after Ma et al. 2007).

    Sigma = Z^T Z / N, rows of length one
    L = (N + D) / 2 ln det(I + D / eps^2 Sigma)
    normalised = ln det(I + D / eps^2 Sigma) / (D ln(1 + 1 / eps^2)): 1 only for Sigma = I / D

The paper prints the factor as "d + n/2"; its own maximum is only right with (d + n) / 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cast_server.evaluators.measures.spectrum import eigenvalues, entropy, unit_rows


@dataclass(frozen=True, slots=True)
class CodingLength:
    """num_tokens: without `num_dropped` that had no direction. nats: L. normalised: in (0, 1].
    matrix_entropy: -tr Sigma ln Sigma, in nats, of the same Sigma."""

    num_tokens: int
    num_dropped: int
    nats: float
    normalised: float
    matrix_entropy: float


def coding_length(representations_ND: Tensor, eps: float, is_centred: bool = False) -> CodingLength:
    """Of one text's tokens, any dtype. eps: the error that is allowed, above 0; it changes the
    result more than most models do. Raises Undefined as `unit_rows`."""
    if not eps > 0:
        raise ValueError(f"eps must be above 0, got {eps}")
    unit = unit_rows(representations_ND, is_centred)
    num_tokens, num_columns = unit.rows_ND.shape
    values = eigenvalues(unit.rows_ND)
    log_det = float(torch.log1p(num_columns / eps**2 * values).sum())
    return CodingLength(
        num_tokens=num_tokens,
        num_dropped=unit.num_dropped,
        nats=(num_tokens + num_columns) / 2 * log_det,
        normalised=log_det / (num_columns * math.log1p(1 / eps**2)),
        matrix_entropy=entropy(values),
    )
