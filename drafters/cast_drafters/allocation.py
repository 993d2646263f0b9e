"""Which drafted nodes are worth verifying, over all sequences of a step: one price decides.

A node that is accepted with probability p is worth p tokens; a second is worth as many tokens as
the server commits in one, `price`. Verify the set that makes tokens minus price times seconds
largest (Dinkelbach 1967, for the long-run rate of a renewal process). As a node is never likelier
than its parent, the best set of n nodes is the n likeliest, and these form trees. The derivation is
in docs/cost-aware-trees.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cast_drafters.tree import DraftTree
from cast_profiler.cost import cheapest_from


def allocate(
    trees: Sequence[DraftTree], verify_seconds: Callable[[int], float], price: float
) -> list[DraftTree]:
    """The part of each tree to verify; possibly nothing.

    verify_seconds(n): cost of the step with n drafted rows, of all sequences together, beside the
    rows it has anyway. price: tokens a second.
    """
    log_probs = np.concatenate([np.zeros(0), *(tree.log_probs_T for tree in trees)])
    owners = np.repeat(np.arange(len(trees)), [len(tree) for tree in trees])
    # Stable: on ties the node found first wins, and parents come before their children.
    ranking = np.argsort(-log_probs, kind="stable")
    size = best_size(
        np.exp(log_probs[ranking]).tolist(),
        [verify_seconds(n) for n in range(len(ranking) + 1)],
        price,
    )
    counts = np.bincount(owners[ranking[:size]], minlength=len(trees))
    return [tree.best(int(count)) for tree, count in zip(trees, counts, strict=True)]


def best_size(gains: Sequence[float], seconds: Sequence[float], price: float) -> int:
    """How many of the falling `gains` to take, if n of them cost seconds[n]. Fewer on ties."""
    values = [-price * cost for cost in cheapest_from(seconds)]
    total = 0.0
    for index, gain in enumerate(gains, start=1):
        total += gain
        values[index] += total
    return max(range(len(values)), key=values.__getitem__)
