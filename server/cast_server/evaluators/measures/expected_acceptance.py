"""How many tokens a verification commits, by the overlap of what is drafted and what is wanted.

A guess drawn from q is accepted with probability alpha = sum of min(p, q) = 1 - TV(p, q), whatever
is drawn instead (Leviathan et al., arXiv 2211.17192). A chain of K guesses then commits
1 + sum over k of alpha_1 ... alpha_k tokens, the target's own included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def overlap(p_V: Tensor, q_V: Tensor) -> float:
    """alpha of two distributions over the vocabulary."""
    return float(torch.minimum(p_V.double(), q_V.double()).sum())


def expected_length(alphas: Sequence[float]) -> float:
    """Tokens a verification; alphas by depth, each given that all before were accepted."""
    reached, length = 1.0, 1.0
    for alpha in alphas:
        reached *= alpha
        length += reached
    return length


def expected_length_at(alpha: float, depth: int) -> float:
    """The same for one alpha at all of `depth` depths."""
    return depth + 1.0 if alpha == 1 else (1 - alpha ** (depth + 1)) / (1 - alpha)


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Sums over the positions of one text or of several. count, total: by depth.
    num_whole: positions with guesses of every depth; length: their expected lengths, summed."""

    count: tuple[int, ...]
    total: tuple[float, ...]
    num_whole: int
    length: float

    @property
    def alphas(self) -> list[float | None]:
        """Means by depth, None where no position has one."""
        return [t / n if n else None for t, n in zip(self.total, self.count, strict=True)]


def summed(overlaps_KN: Tensor) -> Overlaps:
    """overlaps_KN: float64 [depth, positions], NaN where a text ends before the guess."""
    is_there_KN = ~overlaps_KN.isnan()
    whole_KW = overlaps_KN[:, is_there_KN.all(0)]
    reached_KW = whole_KW.cumprod(0)
    return Overlaps(
        count=tuple(is_there_KN.sum(1).tolist()),
        total=tuple(overlaps_KN.nansum(1).tolist()),
        num_whole=whole_KW.shape[1],
        length=float((1 + reached_KW.sum(0)).sum()),
    )


def pooled(texts: Sequence[Overlaps], depth: int) -> Overlaps:
    """Over all positions of several texts, each of this depth."""
    return Overlaps(
        count=tuple(sum(one.count[k] for one in texts) for k in range(depth)),
        total=tuple(sum(one.total[k] for one in texts) for k in range(depth)),
        num_whole=sum(one.num_whole for one in texts),
        length=sum(one.length for one in texts),
    )
