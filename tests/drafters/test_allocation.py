"""The allocation against brute force over every set of nodes that contains its parents."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters.allocation import allocate, best_size, marginal_price
from cast_drafters.tree import DraftTree, tree_from_arrays


@st.composite
def trees(draw, most: int) -> DraftTree:
    count = draw(st.integers(0, most))
    parents, log_probs = [], []
    for node in range(count):
        parent = draw(st.integers(-1, node - 1))
        share = draw(st.floats(0.05, 1.0))
        above = log_probs[parent] if parent >= 0 else 0.0
        parents.append(parent)
        log_probs.append(above + np.log(share))
    return tree_from_arrays(range(count), parents, log_probs)


COSTS = {
    "concave": lambda n: 1 + np.sqrt(n),
    "linear": lambda n: 1 + 0.2 * n,
    "stepped": lambda n: 1 + n // 3,
    "inverted": lambda n: 1 + 0.3 * n - 0.8 * (n >= 4),
    "constant": lambda _: 1.0,
    "steep": lambda n: 1 + 100.0 * n,
}


def closed_sets(tree: DraftTree):
    for size in range(len(tree) + 1):
        for chosen in combinations(range(len(tree)), size):
            if all(tree.parents_T[n] < 0 or tree.parents_T[n] in chosen for n in chosen):
                yield chosen


def worth(tree: DraftTree, chosen) -> float:
    return float(np.exp(tree.log_probs_T[list(chosen)]).sum())


@settings(deadline=None, max_examples=60)
@given(trees(5), trees(4), st.sampled_from(sorted(COSTS)), st.floats(0.01, 3.0))
def test_no_set_of_trees_is_worth_more(one, other, cost, price) -> None:
    total = len(one) + len(other)
    seconds = [float(COSTS[cost](n)) for n in range(total + 1)]

    def value(gain: float, size: int) -> float:
        return gain - price * seconds[size]

    best = max(
        value(worth(one, a) + worth(other, b), len(a) + len(b))
        for a in closed_sets(one)
        for b in closed_sets(other)
    )
    kept = allocate([one, other], seconds.__getitem__, price)
    gain = sum(float(np.exp(tree.log_probs_T).sum()) for tree in kept)
    assert value(gain, sum(map(len, kept))) == pytest.approx(best)


@given(st.lists(trees(6), min_size=1, max_size=4))
def test_free_rows_take_everything_dear_rows_nothing(given_trees) -> None:
    all_of_them = allocate(given_trees, lambda _: 1.0, 5.0)
    assert [len(tree) for tree in all_of_them] == [len(tree) for tree in given_trees]
    none = allocate(given_trees, lambda n: 1.0 + 100 * n, 5.0)
    assert [len(tree) for tree in none] == [0] * len(given_trees)


def test_likely_sequences_get_more_rows_than_unlikely_ones() -> None:
    sure = tree_from_arrays([1, 2, 3], [-1, 0, 1], np.log([0.9, 0.8, 0.7]))
    unsure = tree_from_arrays([1, 2, 3], [-1, -1, -1], np.log([0.2, 0.1, 0.1]))
    kept = allocate([sure, unsure], lambda n: 0.1 * n, 5.0)
    assert [len(tree) for tree in kept] == [3, 0]


def test_an_inversion_is_used() -> None:
    """Two rows cost more than three: take three, whatever the third is worth."""
    assert best_size([0.5, 0.5, 0.0], [1.0, 1.1, 9.0, 1.2], 1.0) == 3


def test_nothing_drafted() -> None:
    assert allocate([], lambda _: 1.0, 1.0) == []


def test_no_more_than_there_are_rows() -> None:
    tree = tree_from_arrays([1, 2, 3], [-1, 0, 1], np.log([0.9, 0.8, 0.7]))
    kept = allocate([tree, tree], lambda _: 1.0, 1.0, max_nodes=4)
    assert [len(one) for one in kept] == [2, 2]


def test_a_token_that_is_worth_more_comes_first() -> None:
    tree = tree_from_arrays([1], [-1], np.log([0.5]))
    kept = allocate([tree, tree], lambda n: 0.6 * n, 1.0, weights=[2.0, 1.0])
    assert [len(one) for one in kept] == [1, 0]


class Prices:
    """One second is worth one token."""

    price = 1.0

    def __init__(self, seconds: list[float]) -> None:
        self._seconds = seconds
        self.max_nodes = len(seconds) - 1

    def verify(self, num_nodes: int) -> float:
        return self._seconds[num_nodes]


@pytest.mark.parametrize(
    ("gains", "seconds", "ahead", "price"),
    [
        ([], [1.0, 1.3, 1.6], 1, 0.3),  # a row is what a row costs
        ([], [1.0, 1.3, 1.4], 2, 0.2),  # two rows are cheaper by the piece
        ([], [1.0, 1.3, 1.4], 9, 0.2),  # there are no more than two
        ([0.5], [1.0, 1.0, 1.0], 1, 0.0),  # room for more
        ([0.5, 0.4], [1.0, 1.0, 1.0, 9.0], 1, 0.4),  # the last one in would have to go
        ([0.5], [1.0], 1, 1.0),  # no row at all
    ],
)
def test_marginal_price(gains, seconds, ahead, price) -> None:
    assert marginal_price(gains, Prices(seconds), ahead) == pytest.approx(price)
