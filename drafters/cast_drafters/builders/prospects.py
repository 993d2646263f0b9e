"""What a pass of the drafter is likely to add, learnt from the passes it has made.

Before a node is run it is known what children it would have without: from the text and the store,
for nothing. Afterwards it is known what it has. The difference, on the nodes of late that were
alike, is what the next such node may hope for. Alike means: at the same level, and with about as
much known for nothing. Where that is all there is to know, a pass can add little.

Shape suffixes: S samples, K children, N nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LEVELS: Final = 4  # the root's, the next two, and all beyond
_EDGES: Final = (0.15, 0.45, 0.75)  # probability that is known for nothing
_SAMPLES: Final = 32  # looked back on, of each sort of node
_CHILDREN: Final = 4
# Before anybody has seen it work, a pass is hoped to find this share of what was not known, …
_HOPE: Final = np.array((0.4, 0.15, 0.05, 0.03))
_KNOWN: Final = (0.0, 0.3, 0.6, 0.85)  # … which is so much in each sort.


class Prospects:
    """Ring buffers of what passes have found, by level and by what was known before."""

    def __init__(self) -> None:
        shape = (_LEVELS, len(_KNOWN), _SAMPLES, _CHILDREN)
        known = np.zeros((len(_KNOWN), 1, _CHILDREN))
        known[:, 0, 0] = _KNOWN
        hoped = known + (1 - known.sum(-1, keepdims=True)) * _HOPE
        self._before = np.broadcast_to(known, shape).copy()
        self._after = np.broadcast_to(hoped, shape).copy()
        self._count = np.zeros(shape[:2], np.int64)

    def learn(self, level: int, before: Sequence[float], after: Sequence[float]) -> None:
        """Conditional probabilities of one node's children, falling: without the pass and with."""
        sort = min(level, _LEVELS - 1), _sort(before)
        place = self._count[sort] % _SAMPLES
        self._before[sort][place] = _fitted(before)
        self._after[sort][place] = _fitted(after)
        self._count[sort] += 1

    def usual(self, level: int, before: Sequence[float]) -> list[float]:
        """Conditional probabilities of the children that such a node has on average, once it has
        been run; falling."""
        found: list[float] = self._after[min(level, _LEVELS - 1), _sort(before)].mean(0).tolist()
        return sorted(found, reverse=True)

    def gains(
        self,
        level: int,
        probs: Sequence[float],
        before: Sequence[Sequence[float]],
        threshold: float,
    ) -> NDArray[np.float64]:
        """Tokens that running each node is likely to add [N], in excess of what rows cost.

        probs: that the node's path is accepted; before: as in `learn`; threshold: what a verified
        row costs, in tokens.
        """
        level = min(level, _LEVELS - 1)
        sorts = [_sort(one) for one in before]
        probs_N11 = np.array(probs)[:, None, None]
        worth = [
            np.maximum(found[level, sorts] * probs_N11 - threshold, 0.0).sum(-1).mean(-1)
            for found in (self._after, self._before)
        ]
        gains: NDArray[np.float64] = np.maximum(worth[0] - worth[1], 0.0)
        return gains


def _sort(before: Sequence[float]) -> int:
    known = sum(before[:_CHILDREN])
    return sum(known > edge for edge in _EDGES)


def _fitted(values: Sequence[float]) -> list[float]:
    return [*values[:_CHILDREN], *([0.0] * (_CHILDREN - len(values)))]
