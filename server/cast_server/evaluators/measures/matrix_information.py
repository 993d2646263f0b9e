"""Entropies of kernels and what two of them share: MIR and HDR (arXiv 2406.03999, 2409.16767).

    H(K) = -tr (K/C) ln (K/C), K positive semidefinite [C, C] with a diagonal of ones
    MI = H(K1) + H(K2) - H(K1 o K2), o elementwise
    MIR = MI / min(H(K1), H(K2))      HDR = |H(K1) - H(K2)| / max(H(K1), H(K2))

Not the Modality Integration Rate (arXiv 2410.07167), which is called MIR too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.measures.spectrum import entropy

_ZERO: Final = 1e-10  # nats; all-ones kernels come out as rounding, not as 0


def gram(rows_CD: Tensor) -> Tensor:
    """Kernel of rows scaled to length one, float64 [C, C].
    Raises Undefined: zero_norm, or not_finite."""
    rows_CD = rows_CD.detach().to("cpu", torch.float64)
    if not rows_CD.isfinite().all():
        raise Undefined("not_finite")
    norms_C = rows_CD.norm(dim=1, keepdim=True)
    if (norms_C == 0).any():
        raise Undefined("zero_norm")
    rows_CD = rows_CD / norms_C
    return rows_CD @ rows_CD.T


def matrix_entropy(kernel_CC: Tensor) -> float:
    """Nats, between 0 (all the same) and ln C (all different)."""
    values_C = torch.linalg.eigvalsh(kernel_CC / kernel_CC.diagonal().sum()).clamp(min=0)
    return entropy(values_C / values_C.sum())


@dataclass(frozen=True, slots=True)
class SharedInformation:
    """Entropies of two kernels and of their elementwise product, in nats."""

    entropy1: float
    entropy2: float
    joint: float

    @property
    def mutual_information(self) -> float:
        """Nats."""
        return self.entropy1 + self.entropy2 - self.joint

    @property
    def mir(self) -> float:
        """Matrix mutual information ratio. Raises Undefined: zero_entropy."""
        return self._ratio(self.mutual_information, min(self.entropy1, self.entropy2))

    @property
    def hdr(self) -> float:
        """Matrix entropy difference ratio. Raises Undefined: zero_entropy."""
        return self._ratio(abs(self.entropy1 - self.entropy2), max(self.entropy1, self.entropy2))

    @staticmethod
    def _ratio(value: float, entropy: float) -> float:
        if entropy < _ZERO:
            raise Undefined("zero_entropy")
        return value / entropy


def shared_information(kernel1_CC: Tensor, kernel2_CC: Tensor) -> SharedInformation:
    """Of two kernels over the same C things; three decompositions of C x C."""
    return SharedInformation(
        matrix_entropy(kernel1_CC),
        matrix_entropy(kernel2_CC),
        matrix_entropy(kernel1_CC * kernel2_CC),
    )


def mir_at_collapse(num_classes: int) -> float:
    """MIR where both kernels are the simplex, as under neural collapse, of at least 3 classes;
    HDR is 0 there. A reference for language models, not their aim."""
    if num_classes < 3:
        raise Undefined("fewer_than_3_classes")
    smaller = num_classes - 1
    return 1 / smaller + (smaller - 1) * math.log(smaller - 1) / (smaller * math.log(smaller))
