"""What each operation has to move and to compute, from its shapes alone.

Bytes are those that nothing can spare: what is looked at once in, what comes out once out, nothing
in between, caches empty before. Operations are those of its products, two for a multiply-add; an op
without products has one for each element that it looks at. So neither is ever more than what an
implementation needs. `width` is the bytes of an element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cast_kernels.tree_attention.tiling import traffic


@dataclass(frozen=True, slots=True)
class Work:
    """Of one call."""

    bytes_read: int
    bytes_written: int
    operations: int

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written

    def floor_seconds(
        self, bytes_per_second: float, operations_per_second: float = math.inf
    ) -> float:
        """No device with these limits is faster (Williams et al. 2009)."""
        return max(self.bytes_moved / bytes_per_second, self.operations / operations_per_second)


def tree_attention(
    sequences: Sequence[tuple[int, int]],
    key_heads: int,
    group: int,
    head_dim: int,
    *,
    width: int = 2,
    page: int = 16,
    seen: int | None = None,
) -> Work:
    """Of one layer. `sequences`: the rows of each, which are its tree, and its context before them.

    `seen`: the pairs of a row and a tree's key that it sees, of all sequences. If it is not given,
    rows see themselves only, the least there can be.
    """
    rows = sum(rows for rows, _ in sequences)
    least = sum(
        traffic(rows, context, key_heads, group, head_dim, 1, 1, width)[1]
        for rows, context in sequences
    )
    pages = sum(math.ceil((rows + context) / page) for rows, context in sequences)
    tables = 4 * (pages + 3 * len(sequences) + 2)
    written = width * rows * key_heads * group * head_dim
    pairs = sum(rows * context for rows, context in sequences) + (rows if seen is None else seen)
    return Work(least - written + tables, written, 4 * pairs * key_heads * group * head_dim)


def kv_write(
    rows: int, key_heads: int, head_dim: int, *, width: int = 2, cache_width: int = 2
) -> Work:
    """Of one layer, every row with a slot. A narrower cache has scales."""
    numbers = 2 * rows * key_heads * head_dim
    is_scaled = cache_width < width
    scales = 4 * 2 * key_heads if is_scaled else 0
    return Work(width * numbers + 8 * rows + scales, cache_width * numbers, is_scaled * numbers)


def kv_commit(moves: int, layers: int, key_heads: int, head_dim: int, *, width: int = 2) -> Work:
    """`moves` of all sequences, no padding."""
    moved = moves * layers * 2 * key_heads * head_dim * width
    return Work(moved + 16 * moves, moved, 0)


def tree_accept(rows: int, batch: int, max_depth: int) -> Work:
    """`rows` of all sequences."""
    return Work(20 * rows + 4 * (batch + 1), (4 * max_depth + 12) * batch, rows)


def gumbel_argmax(rows: int, vocabulary: int, *, width: int = 4) -> Work:
    """The token alone, as the package says: the kernel's log-probability is 4 bytes a row more."""
    return Work(width * rows * vocabulary + 16 * rows, 8 * rows, rows * vocabulary)


def norm_linear(rows: int, features: int, outputs: int, *, width: int = 2) -> Work:
    """The norm has no traffic of its own."""
    read = width * (rows + outputs) * features
    return Work(read, 4 * rows * outputs, 2 * rows * features * outputs)


def log_softmax_topk(rows: int, vocabulary: int, k: int, *, width: int = 4) -> Work:
    return Work(width * rows * vocabulary, 12 * rows * k, rows * vocabulary)


def frontier(batch: int, candidates: int, num_rows: int) -> Work:
    """`candidates` of each sequence."""
    nodes = batch * candidates
    return Work(4 * nodes + 4 * batch, 8 * num_rows + 4 * batch, nodes)


def linear(
    rows: int,
    inputs: int,
    outputs: int,
    *,
    width: int = 2,
    weight_width: int = 2,
    out_width: int = 2,
) -> Work:
    """Packed and wide linear layers, without bias."""
    read = width * rows * inputs + weight_width * outputs * inputs
    return Work(read, out_width * rows * outputs, 2 * rows * inputs * outputs)
