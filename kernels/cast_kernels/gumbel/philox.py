"""The random words behind the noise: Philox4x64-10 (Salmon et al. 2011), by numpy and by torch.

Key (seed, 0), counter (block, position, 0, 0). A block is four 64-bit outputs, which are the 32-bit
words of eight tokens, low halves first. Blocks count from 1, as numpy's generator moves its counter
before it makes one: what it makes from counter (0, position, 0, 0) on are the words of tokens 0, 1,
2, … in order. int64 seeds and positions stand for the same bits without a sign.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOKENS: Final = 8  # of a block

_MULTIPLIERS: Final = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL: Final = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS: Final = 10
_LOW: Final = 0xFFFFFFFF


def row_words(seed: int, position: int, count: int) -> NDArray[np.uint32]:
    """Of tokens 0 to count - 1 of one row, by numpy: a few nanoseconds each, but only in order."""
    key, counter = np.array([[seed, 0, 0, 0], [0, position, 0, 0]], np.int64).view(np.uint64)
    raw = np.random.Philox(key=key[:2], counter=counter).random_raw(-(-count // 2))
    # Little-endian whatever the machine is, so that low halves come first.
    return cast(NDArray[np.uint64], raw).astype("<u8", copy=False).view("<u4")[:count]


def scattered_words(
    seed_I: NDArray[np.int64], position_I: NDArray[np.int64], token_I: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Of any I tokens of any rows, by numpy: each row is made once, up to its last token."""
    word_I = np.empty(token_I.shape, np.uint32)
    order_I = np.lexsort((position_I, seed_I))
    is_new_I = (np.diff(seed_I[order_I]) != 0) | (np.diff(position_I[order_I]) != 0)
    for row in np.split(order_I, np.flatnonzero(is_new_I) + 1) if len(order_I) else ():
        first, tokens = row[0], token_I[row]
        words = row_words(int(seed_I[first]), int(position_I[first]), int(tokens.max()) + 1)
        word_I[row] = words[tokens]
    return word_I


def block_words(seed: Tensor, position: Tensor, block: Tensor) -> Tensor:
    """[..., 8], of the eight tokens from 8 * block on, by torch on any device; int64 throughout."""
    zero = torch.zeros_like(block)
    outputs = philox_4x64((block + 1, position, zero, zero), (seed, torch.zeros_like(seed)))
    return torch.stack([half for one in outputs for half in (one & _LOW, _high(one))], -1)


def philox_4x64(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 64-bit words for each counter; all tensors are int64 with the bits of unsigned ones."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        (high0, low0), (high1, low1) = (
            _multiply(c0, _MULTIPLIERS[0]),
            _multiply(c2, _MULTIPLIERS[1]),
        )
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _signed(_WEYL[0]), k1 + _signed(_WEYL[1])
    return c0, c1, c2, c3


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low 64 bits of the product of two unsigned numbers.

    Sums and products of int64 wrap, but their 64 bits are right; none here has more than 64.
    """
    a0, a1, b0, b1 = a & _LOW, _high(a), b & _LOW, b >> 32
    middle = a1 * b0 + _high(a0 * b0)
    cross = a0 * b1 + (middle & _LOW)
    return a1 * b1 + _high(middle) + _high(cross), a * _signed(b)


def _high(a: Tensor) -> Tensor:
    return (a >> 32) & _LOW  # the mask undoes the sign of the shift


def _signed(number: int) -> int:
    return number - (number >> 63 << 64)
