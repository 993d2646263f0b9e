"""Steps with random trees, for the tests of attention."""

from __future__ import annotations

import numpy as np

from cast_kernels.tree_attention import SequenceRows
from cast_kernels.tree_attention.reference import tree_attention_reference


def make_rows(rng, slots_L, context, chunk, nodes) -> tuple[SequenceRows, list[int]]:
    """A chunk of a prompt with a random tree behind it; also every row's parent row."""
    parents = [*range(-1, chunk - 1)]
    parents += [int(rng.integers(chunk - 1, row)) for row in range(chunk, chunk + nodes)]
    mask_RR = np.eye(len(parents), dtype=np.bool_)
    depths_R = np.zeros(len(parents), np.int64)
    for row, parent in enumerate(parents):
        if parent >= 0:
            mask_RR[row] |= mask_RR[parent]
            depths_R[row] = depths_R[parent] + 1
    return SequenceRows(slots_L, mask_RR, depths_R), parents


def relative_error(out, q, cache, rows, **options) -> float:
    """Against attention in float64."""
    right = tree_attention_reference(q.double(), cache, rows, **options)
    return float((out.double() - right).norm() / right.norm())
