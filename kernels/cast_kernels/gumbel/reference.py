"""Philox4x32-10 (Salmon et al. 2011) and Gumbel noise in plain torch integers; any device."""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10
_LOW: Final = 0xFFFFFFFF
_LANES: Final = 4
_ROWS_AT_ONCE: Final = 4  # what 10 rounds over a vocabulary of 50,000 work on stays in cache

# Uniforms are (x + 1/2) / 2^32, so the noise lies between these bounds.
_MAX_NOISE: Final = -math.log(-math.log1p(-(2.0**-33)))
_MIN_NOISE: Final = -math.log(33.0 * math.log(2.0))


def philox_4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words for each counter; all tensors are int64 holding unsigned 32-bit values."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap, but their 64 bits are right; the masks undo the sign of the shift.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _LOW) ^ c1 ^ k0,
            p1 & _LOW,
            ((p0 >> 32) & _LOW) ^ c3 ^ k1,
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def gumbel_noise(seed: Tensor, position: Tensor, token_id: Tensor) -> Tensor:
    """Standard Gumbel noise, float64, of the broadcast shape of its three int64 arguments.

    The Philox counter is (token // 4, position, 0, 0), the key the two halves of the seed, and
    token % 4 picks one of the four words: a kernel gets four tokens from one evaluation.
    """
    seed, position, token_id = torch.broadcast_tensors(seed, position, token_id)
    words = _words(seed, position, token_id // _LANES)
    lane = token_id % _LANES
    word = torch.where(
        lane < 2, torch.where(lane == 0, words[0], words[1]), torch.where(lane == 2, *words[2:])
    )
    return _gumbel(word)


def gumbel_argmax(scores_RV: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
    """One sample of softmax(scores) a row, int64 [R].

    scores_RV: float, -inf where a token is forbidden, at least one finite score in every row.
    seed_R, position_R: int64. Ties go to the lowest token id.
    """
    parts = zip(
        scores_RV.split(_ROWS_AT_ONCE),
        seed_R.split(_ROWS_AT_ONCE),
        position_R.split(_ROWS_AT_ONCE),
        strict=True,
    )
    return torch.cat([_argmax(*part) for part in parts])


def gumbel_choice(
    scores_RV: Tensor, seed_R: Tensor, position_R: Tensor, is_greedy_R: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens, int64 [R], and their log-probabilities, float32 [R]; greedy rows have no noise."""
    noisy_R = gumbel_argmax(scores_RV, seed_R, position_R)
    token_R = torch.where(is_greedy_R, scores_RV.argmax(-1), noisy_R)
    log_prob_RV = scores_RV.float().log_softmax(-1)
    return token_R, log_prob_RV.gather(1, token_R[:, None])[:, 0]


def _argmax(scores_RV: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
    """Noise is only made where it can matter: the best token ends no lower than the top score plus
    the least noise, so a score further below the top than the range of the noise cannot win."""
    padding = -scores_RV.shape[-1] % _LANES
    scores_RV = F.pad(scores_RV.double(), (0, padding), value=-torch.inf)
    scores_RC4 = scores_RV.unflatten(-1, (-1, _LANES))
    top_R1 = scores_RV.amax(-1, keepdim=True)
    row, counter = torch.where(scores_RC4.amax(-1) >= top_R1 - (_MAX_NOISE - _MIN_NOISE))
    words = _words(seed_R[row], position_R[row], counter)
    noisy_RC4 = torch.full_like(scores_RC4, -torch.inf)
    noisy_RC4[row, counter] = scores_RC4[row, counter] + _gumbel(torch.stack(words, -1))
    return noisy_RC4.flatten(1).argmax(-1)


def _words(
    seed: Tensor, position: Tensor, counter: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    zero = torch.zeros_like(counter)
    return philox_4x32((counter, position & _LOW, zero, zero), (seed & _LOW, (seed >> 32) & _LOW))


def _gumbel(word: Tensor) -> Tensor:
    return -torch.log(-torch.log((word.double() + 0.5) * 2.0**-32))
