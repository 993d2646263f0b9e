"""Philox4x32-10 (Salmon et al. 2011) and Gumbel noise in plain torch integers; any device."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10
_LOW: Final = 0xFFFFFFFF

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
    zero = torch.zeros_like(token_id)
    words = philox_4x32(
        (token_id >> 2, position & _LOW, zero, zero), (seed & _LOW, (seed >> 32) & _LOW)
    )
    lane = token_id & 3
    word = torch.where(
        lane < 2, torch.where(lane == 0, words[0], words[1]), torch.where(lane == 2, *words[2:])
    )
    uniform = (word.double() + 0.5) * 2.0**-32
    return -torch.log(-torch.log(uniform))


def gumbel_argmax(scores_RV: Tensor, seed_R: Tensor, position_R: Tensor) -> Tensor:
    """One sample of softmax(scores) a row, int64 [R].

    scores_RV: float, -inf where a token is forbidden, at least one finite score in every row.
    seed_R, position_R: int64. Ties go to the lowest token id.

    Noise is only made where it can matter: the best token ends no lower than the top score plus the
    least noise, so a score further below the top than the range of the noise cannot win.
    """
    scores_RV = scores_RV.double()
    top_R1 = scores_RV.amax(-1, keepdim=True)
    row, token_id = torch.where(scores_RV >= top_R1 - (_MAX_NOISE - _MIN_NOISE))
    noisy_RV = torch.full_like(scores_RV, -torch.inf)
    noise = gumbel_noise(seed_R[row], position_R[row], token_id)
    noisy_RV[row, token_id] = scores_RV[row, token_id] + noise
    return noisy_RV.argmax(-1)
