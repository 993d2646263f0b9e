"""The random words behind the noise, by numpy: Philox4x64-10 (Salmon et al. 2011).

Key (seed, 0), counter (block, position, 0, 0). A block is four 64-bit outputs, which are the 32-bit
words of eight tokens, low halves first. Blocks count from 1, as numpy's generator moves its counter
before it makes one: what it makes from counter (0, position, 0, 0) on are the words of tokens 0, 1,
2, … in order. int64 seeds and positions stand for the same bits without a sign.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_TOKENS: Final = 8  # of a block

# Each round multiplies counter words 0 and 2 and adds to the key; both pairs go side by side.
_MULTIPLIERS_21: Final = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)
_WEYL_21: Final = np.array([[0x9E3779B97F4A7C15], [0xBB67AE8584CAA73B]], np.uint64)
_ROUNDS: Final = 10
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)


def row_words(seed: int, position: int, count: int) -> NDArray[np.uint32]:
    """Of tokens 0 to count - 1 of one row: a few nanoseconds each, as numpy makes them in order."""
    state_24 = np.array([[seed, 0, 0, 0], [0, position, 0, 0]], np.int64).view(np.uint64)
    philox = np.random.Philox(key=state_24[0, :2], counter=state_24[1])
    return _halves(philox.random_raw(-(-count // 2)))[:count]


def scattered_words(
    seed_I: NDArray[np.int64], position_I: NDArray[np.int64], token_I: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Of any I tokens of any rows: as many operations, whatever I is, as 50,000 in order take."""
    counter_4I = np.zeros((4, len(token_I)), np.int64)
    key_2I = np.zeros((2, len(token_I)), np.int64)
    counter_4I[0], counter_4I[1], key_2I[0] = token_I // _TOKENS + 1, position_I, seed_I
    output_I4 = philox_4x64(counter_4I.view(np.uint64), key_2I.view(np.uint64)).T
    words_I8 = _halves(np.ascontiguousarray(output_I4))
    word_I: NDArray[np.uint32] = words_I8[np.arange(len(token_I)), token_I % _TOKENS]
    return word_I


def philox_4x64(counter_4I: NDArray[np.uint64], key_2I: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Four words for each counter, [4, I]."""
    even_2I, odd_2I = counter_4I[::2], counter_4I[1::2]
    for _ in range(_ROUNDS):
        high_2I, low_2I = _multiply(even_2I, _MULTIPLIERS_21)
        even_2I, odd_2I = high_2I[::-1] ^ odd_2I ^ key_2I, low_2I[::-1]
        key_2I = key_2I + _WEYL_21
    return np.stack([even_2I, odd_2I], 1).reshape(counter_4I.shape)


def _multiply(
    a_2I: NDArray[np.uint64], b_21: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """High and low 64 bits of the product, by halves; no sum here has more than 64 bits."""
    a0_2I, a1_2I, b0_21, b1_21 = a_2I & _LOW, a_2I >> _HALF, b_21 & _LOW, b_21 >> _HALF
    middle_2I = a1_2I * b0_21 + (a0_2I * b0_21 >> _HALF)
    cross_2I = a0_2I * b1_21 + (middle_2I & _LOW)
    high_2I = a1_2I * b1_21 + (middle_2I >> _HALF) + (cross_2I >> _HALF)
    return high_2I, a_2I * b_21


def _halves(output: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Twice as many along the last dimension, low halves first on any machine."""
    words: NDArray[np.uint32] = output.astype("<u8", copy=False).view("<u4")
    return words
