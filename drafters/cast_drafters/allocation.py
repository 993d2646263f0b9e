"""Which drafted nodes are worth verifying, over all sequences of a step: one price decides.

A node that is accepted with probability p is worth p tokens; a second is worth as many tokens as
the server commits in one, `price`. Verify the set that makes tokens minus price times seconds
largest (Dinkelbach 1967, for the long-run rate of a renewal process). As a node is never likelier
than its parent, the best set of n nodes is the n likeliest, and these form trees. The derivation is
in docs/cost-aware-trees.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cast_drafters.tree import DraftTree


class Prices(Protocol):
    """What `marginal_price` needs of a step's costs."""

    @property
    def price(self) -> float: ...

    @property
    def max_nodes(self) -> int: ...

    def verify(self, num_nodes: int) -> float: ...


def allocate(
    trees: Sequence[DraftTree],
    verify_seconds: Callable[[int], float],
    price: float,
    max_nodes: int | None = None,
    weights: Sequence[float] | None = None,
) -> list[DraftTree]:
    """The part of each tree to verify; possibly nothing.

    verify_seconds(n): cost of the step with n drafted rows, of all sequences together, beside the
    rows it has anyway. price: tokens a second. max_nodes: most of all trees together. weights: what
    a token of each sequence is worth, 1 if None.
    """

    def size(gains: NDArray[np.float64]) -> int:
        seconds = [verify_seconds(n) for n in range(len(gains) + 1)]
        return best_size(gains.tolist(), seconds, price)

    return keep_likeliest(trees, size, max_nodes, weights)


def keep_likeliest(
    trees: Sequence[DraftTree],
    choose_size: Callable[[NDArray[np.float64]], int],
    max_nodes: int | None = None,
    weights: Sequence[float] | None = None,
) -> list[DraftTree]:
    """The most valuable nodes of all trees together; `choose_size` is told their falling values and
    says how many to keep."""
    gains = np.exp(np.concatenate([np.zeros(0), *(tree.log_probs_T for tree in trees)]))
    owners = np.repeat(np.arange(len(trees)), [len(tree) for tree in trees])
    if weights is not None:
        gains *= np.array(weights)[owners]
    # Stable: on ties the node found first wins, and parents come before their children.
    ranking = np.argsort(-gains, kind="stable")[:max_nodes]
    kept = ranking[: choose_size(gains[ranking])]
    counts = np.bincount(owners[kept], minlength=len(trees))
    return [tree.best(int(count)) for tree, count in zip(trees, counts, strict=True)]


def best_size(gains: Sequence[float], seconds: Sequence[float], price: float) -> int:
    """How many of the falling `gains` to take, if n of them cost seconds[n]. Fewer on ties.

    Every size is tried, so nothing about the shape of the costs is assumed: where more rows take
    less time, they are taken.
    """
    values = [-price * cost for cost in seconds]
    total = 0.0
    for index, gain in enumerate(gains, start=1):
        total += gain
        values[index] += total
    return max(range(len(values)), key=values.__getitem__)


def marginal_price(gains: Sequence[float], costs: Prices, ahead: int = 1) -> float:
    """What each of the next `ahead` nodes must be worth, in tokens, to join the best of `gains`.

    They take rows of their own, or, where that is cheaper, the place of the last node that is in.
    """
    falling = sorted(gains, reverse=True)[: costs.max_nodes]
    seconds = [costs.verify(n) for n in range(len(falling) + 1)]
    size = best_size(falling, seconds, costs.price)
    count = min(ahead, costs.max_nodes - size)
    rows = [costs.price * (costs.verify(size + count) - seconds[size]) / count] if count else []
    return max(0.0, min([*rows, *falling[size - 1 : size]], default=1.0))
