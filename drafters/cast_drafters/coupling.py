"""Candidates for sampled text, ranked with the very noise that the target will choose with.

At temperature T the target takes argmax log p + g, with Gumbel noise g known beforehand: it is
keyed by seed, position and token. A drafter that ranks by log q + strength * g therefore finds the
target's choice the more surely, the closer q is to p (Gumbel coupling, Daliri et al. 2024); with a
weak q, plain ranking (strength 0) finds it more often. Which is better, and how far to trust the
winner, is learnt from what the target chose: every strength can be judged on every choice.

Shape suffixes: K candidates of a node, A strengths, B sharpnesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

STRENGTHS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_SHARPNESSES: Final = (0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 9.0)
_MEMORY: Final = 2000.0  # choices that the averages look back on
_WIDTHS: Final = 16  # ranks that are told apart


@dataclass(frozen=True, slots=True)
class Candidates:
    """Tokens that a node might be followed by. log_q_K: natural logarithm of the drafter's
    probability at the request's temperature; noise_K: the target's Gumbel noise for them."""

    tokens_K: NDArray[np.int64]
    log_q_K: NDArray[np.float64]
    noise_K: NDArray[np.float64]


class Coupling:
    """Starts without coupling, and moves to where the target's choices have been found."""

    def __init__(self) -> None:
        self._found_AK = np.zeros((len(STRENGTHS), _WIDTHS))
        self._fit_AB = np.zeros((len(STRENGTHS), len(_SHARPNESSES)))
        self._count = 0.0

    def strength(self, width: int) -> int:
        """The index of the strength that has found most choices among its first `width`."""
        found_A = self._found_AK[:, : min(width, _WIDTHS)].sum(1)
        return int(found_A.argmax())

    def rank(self, candidates: Candidates, width: int) -> list[tuple[int, float]]:
        """The `width` best tokens, each with the probability that the target chooses it."""
        arm = self.strength(width)
        score_K = candidates.log_q_K + STRENGTHS[arm] * candidates.noise_K
        mass = float(np.exp(candidates.log_q_K).sum())
        sharpness = _SHARPNESSES[int(self._fit_AB[arm].argmax())] if self._count else 1.0
        share_K = _softmax(sharpness * score_K) * min(1.0, mass)
        best = np.argsort(-score_K, kind="stable")[:width]
        return list(zip(candidates.tokens_K[best].tolist(), share_K[best].tolist(), strict=True))

    def learn(self, candidates: Candidates, chosen: int) -> None:
        """`chosen`: the token that the target took behind this node."""
        fade = 1.0 - 1.0 / _MEMORY
        self._found_AK *= fade
        self._fit_AB *= fade
        self._count = self._count * fade + 1.0
        [place] = np.nonzero(candidates.tokens_K == chosen)
        if not len(place):
            return
        score_AK = candidates.log_q_K + np.multiply.outer(STRENGTHS, candidates.noise_K)
        rank_A = (score_AK > score_AK[:, place[:1]]).sum(1)
        [near] = np.nonzero(rank_A < _WIDTHS)
        self._found_AK[near, rank_A[near]] += 1.0
        share_BAK = _softmax(np.multiply.outer(_SHARPNESSES, score_AK))
        self._fit_AB += np.log(share_BAK[..., place[0]].clip(min=1e-9)).T

    def found(self) -> NDArray[np.float64]:
        """Share of choices found among the first 1, 2, … candidates, by strength."""
        shares: NDArray[np.float64] = self._found_AK.cumsum(1) / max(1.0, self._count)
        return shares


def _softmax(score_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Along the last dimension, whatever comes before it."""
    weight_K = np.exp(score_K - score_K.max(-1, keepdims=True))
    normalised: NDArray[np.float64] = weight_K / weight_K.sum(-1, keepdims=True)
    return normalised
