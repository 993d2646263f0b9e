"""Which tile and how many splits for a shape, and the bytes that this costs."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch


class Config(NamedTuple):
    block_m: int
    block_l: int
    max_head_dim: int
    num_warps: int
    num_stages: int


CONFIGS: Final = (
    Config(16, 64, 128, 4, 3),
    Config(64, 32, 128, 4, 3),
    Config(128, 32, 128, 8, 3),
    Config(16, 32, 256, 4, 3),
    Config(64, 16, 256, 8, 2),
)
FLOAT32: Final = Config(16, 16, 256, 4, 2)  # products without tensor cores: registers are the limit
MAX_HEAD_DIM: Final = FLOAT32.max_head_dim
_BUSY: Final = 2  # programs a processor, so that one computes while another waits for memory
_PARTIAL_SHARE: Final = 12  # keys and values are at least so many times the splits' partial results


def choose_config(max_packed: int, head_dim: int, dtype: torch.dtype) -> Config:
    """The smallest tile that takes all rows of a sequence, or the largest there is."""
    assert head_dim <= MAX_HEAD_DIM, f"head dims up to {MAX_HEAD_DIM}, got {head_dim}"
    if dtype == torch.float32:
        return FLOAT32
    least = min(one.max_head_dim for one in CONFIGS if one.max_head_dim >= head_dim)
    fitting = [one for one in CONFIGS if one.max_head_dim == least]
    return next((one for one in fitting if one.block_m >= max_packed), fitting[-1])


def choose_splits(programs: int, processors: int, context: int, packed: int) -> int:
    """As many as keep every processor busy, as long as their results are small beside the keys.

    context: keys of a sequence. packed: its rows times the query heads of a key head.
    """
    wanted = -(-_BUSY * processors // max(1, programs))
    # 16-bit keys and values; a float32 of result is written and read for every row and head.
    affordable = context // (2 * _PARTIAL_SHARE * max(1, packed))
    return max(1, min(wanted, affordable))


def traffic(
    rows: int,
    context: int,
    key_heads: int,
    group: int,
    head_dim: int,
    splits: int,
    block_m: int,
    width: int = 2,
) -> tuple[int, int]:
    """Bytes of one sequence: what the kernel moves, and the least that can be.

    The least is q, keys and values once, the output, and the mask once. `width` is the bytes of an
    element of each of them but the mask.
    """
    keys = 2 * width * (context + rows) * key_heads * head_dim
    q_and_out = 2 * width * rows * key_heads * group * head_dim
    tiles = -(-rows * group // block_m)
    mask = 8 * rows * -(-rows // 64)
    pages = 4 * (context + rows) * key_heads * tiles
    partial = 8 * splits * rows * key_heads * group * (head_dim + 1) if splits > 1 else 0
    return (
        keys * tiles + q_and_out + mask * key_heads * group + pages + partial,
        keys + q_and_out + mask,
    )
