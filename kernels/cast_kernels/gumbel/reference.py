"""Gumbel noise and the choice with it, by numpy; of a device, its tensors are fetched first."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_kernels.gumbel.philox import row_words, scattered_words

_FEW: Final = 4  # one able token in so many pays for picking them out


def gumbel_noise(seed: Tensor, position: Tensor, token_id: Tensor) -> Tensor:
    """Standard Gumbel noise, float64, of the broadcast shape of its three int64 arguments.

    -log(-log(u)) with u = (w + 1/2) / 2^32, w the token's word (philox.py).
    """
    arguments = torch.broadcast_tensors(seed, position, token_id)
    flat = [one.cpu().numpy().reshape(-1) for one in arguments]
    noise = torch.from_numpy(_gumbel(scattered_words(*flat)))
    return noise.view(arguments[0].shape).to(token_id.device)


def gumbel_argmax(scores_RV: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
    """One sample of softmax(scores) a row, int64 [R].

    scores_RV: float, -inf where a token is forbidden, at least one finite score in every row.
    seed_R, position_R: int64. Ties go to the lowest token id.
    """
    rows = zip(_as_array(scores_RV), seed_R.tolist(), position_R.tolist(), strict=True)
    chosen = [_choose(*row) for row in rows]
    return torch.tensor(chosen, dtype=torch.int64, device=scores_RV.device)


def highest(scores_RV: Tensor) -> Tensor:
    """The token with the highest score, int64 [R]; ties go to the lowest, and NaN is the highest.

    numpy's argmax takes a tenth of the time of torch's on a CPU.
    """
    if scores_RV.device.type != "cpu":
        return scores_RV.argmax(-1)
    return torch.from_numpy(_as_array(scores_RV).argmax(-1))


def gumbel_choice(
    scores_RV: Tensor, seed_R: Tensor, position_R: Tensor, is_greedy_R: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens, int64 [R], and their log-probabilities, float32 [R]; greedy rows have no noise."""
    noisy_R = gumbel_argmax(scores_RV, seed_R, position_R)
    token_R = torch.where(is_greedy_R, highest(scores_RV), noisy_R)
    log_prob_RV = scores_RV.float().log_softmax(-1)
    return token_R, log_prob_RV.gather(1, token_R[:, None])[:, 0]


def _choose(scores_V: NDArray[np.floating], seed: int, position: int) -> int:
    """Of one row. Where only few tokens are not forbidden, only they are looked at."""
    is_able_V = scores_V != -np.inf
    if not 0 < _FEW * np.count_nonzero(is_able_V) < len(scores_V):
        return _best(scores_V, row_words(seed, position, len(scores_V)))
    token_A = np.flatnonzero(is_able_V)
    words = row_words(seed, position, int(token_A[-1]) + 1)
    return int(token_A[_best(scores_V[token_A], words[token_A])])


def _best(scores_A: NDArray[np.floating], word_A: NDArray[np.uint32]) -> int:
    """Both float64 logarithms are taken only where they can matter.

    As -log(u) >= 1 - u, noise is at most -log(1 - u): one float32 logarithm. The token of the
    highest bound ends up somewhere; those with bounds below that, by more than what rounding can
    explain, cannot win. Comparisons are such that NaN, where there is one, is chosen.
    """
    rest_A = (~word_A).astype(np.float32)  # 1 - u
    rest_A += np.float32(0.5)
    rest_A *= np.float32(2.0**-32)
    bound_A = scores_A - np.log(rest_A, out=rest_A)
    first = bound_A.argmax()
    reached = float(scores_A[first]) + float(_gumbel(word_A[first]))
    slack = 1e-4 + 2.0**-20 * abs(reached)
    likely = np.flatnonzero(~(bound_A < reached - slack))
    return int(likely[(scores_A[likely].astype(np.float64) + _gumbel(word_A[likely])).argmax()])


def _gumbel(word: NDArray[np.uint32]) -> NDArray[np.float64]:
    noise: NDArray[np.float64] = -np.log(-np.log((word + np.float64(0.5)) * 2.0**-32))
    return noise


def _as_array(scores_RV: Tensor) -> NDArray[np.floating]:
    """numpy knows no bfloat16, and is slow with float16."""
    is_wide = scores_RV.dtype in (torch.float32, torch.float64)
    array: NDArray[np.floating] = (scores_RV if is_wide else scores_RV.float()).cpu().numpy()
    return array
