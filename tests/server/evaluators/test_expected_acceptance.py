"""Overlap and expected length, by formula and by drawing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cast_server.evaluators.measures.expected_acceptance import (
    expected_length,
    expected_length_at,
    overlap,
    pooled,
    summed,
)


def distribution(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64).mul(1.5).softmax(0)


@given(st.integers(1, 60), st.integers(0, 2**31))
def test_overlap_is_one_less_the_total_variation(size, seed) -> None:
    p, q = distribution(size, seed), distribution(size, seed + 1)
    total_variation = 0.5 * float((p - q).abs().sum())
    assert overlap(p, q) == pytest.approx(1 - total_variation, abs=1e-12)
    assert overlap(p, q) == overlap(q, p)
    assert overlap(p, p) == pytest.approx(1, abs=1e-12)


def test_overlap_is_how_often_a_guess_is_accepted() -> None:
    """Rejection sampling with a residual: its rate is alpha, and what comes out is p."""
    p, q = distribution(50, 0).numpy(), distribution(50, 1).numpy()
    generator, draws = np.random.default_rng(0), 400_000
    guesses = generator.choice(50, draws, p=q)
    accepted = generator.random(draws) < np.minimum(1, p[guesses] / q[guesses])
    residual = np.maximum(p - q, 0)
    instead = generator.choice(50, draws, p=residual / residual.sum())
    alpha = overlap(torch.from_numpy(p), torch.from_numpy(q))
    assert accepted.mean() == pytest.approx(alpha, abs=5 * math.sqrt(alpha / draws))
    out = np.bincount(np.where(accepted, guesses, instead), minlength=50)
    chi_square = float(((out - draws * p) ** 2 / (draws * p)).sum())
    assert chi_square < 49 + 5 * math.sqrt(2 * 49)


@pytest.mark.parametrize(
    ("alpha", "depth", "length"), [(0.8, 4, 3.3616), (0.6, 7, 2.4580), (0, 5, 1), (1, 5, 6)]
)
def test_constant_alpha(alpha, depth, length) -> None:
    assert expected_length_at(alpha, depth) == pytest.approx(length, abs=5e-5)
    assert expected_length([alpha] * depth) == pytest.approx(length, abs=5e-5)


@given(st.floats(0, 1), st.integers(0, 12))
def test_closed_form_is_the_sum(alpha, depth) -> None:
    assert expected_length_at(alpha, depth) == pytest.approx(expected_length([alpha] * depth))


@given(st.lists(st.floats(0.05, 0.95), min_size=1, max_size=8), st.data())
def test_a_depth_is_worth_what_comes_behind_it(alphas, data) -> None:
    """The derivative by one alpha: survival to it, times the expected rest."""
    k = data.draw(st.integers(0, len(alphas) - 1))
    step = 1e-3
    more, less = (
        expected_length([*alphas[:k], alphas[k] + sign * step, *alphas[k + 1 :]])
        for sign in (1, -1)
    )
    survival = math.prod(alphas[:k])
    rest = expected_length(alphas[k + 1 :])
    assert (more - less) / (2 * step) == pytest.approx(survival * rest, abs=1e-9)


def test_sums_leave_out_what_the_text_does_not_reach() -> None:
    nan = math.nan
    table = torch.tensor([[0.5, 0.9, 0.7, nan], [0.4, 0.2, nan, nan]], dtype=torch.float64)
    found = summed(table)
    assert found.count == (3, 2)
    assert found.alphas == pytest.approx([0.7, 0.3])
    assert found.num_whole == 2
    assert found.length / 2 == pytest.approx((1 + 0.5 + 0.2 + 1 + 0.9 + 0.18) / 2)
    nothing = summed(torch.full((2, 1), nan, dtype=torch.float64))
    assert (nothing.alphas, nothing.num_whole) == ([None, None], 0)


def test_pooled_texts_are_one_long_text() -> None:
    one, other = torch.rand(3, 5).double(), torch.rand(3, 4).double()
    other[2, 3] = math.nan
    together, apart = summed(torch.cat([one, other], 1)), pooled([summed(one), summed(other)], 3)
    assert apart.count == together.count
    assert apart.num_whole == together.num_whole
    assert apart.total == pytest.approx(together.total)
    assert apart.length == pytest.approx(together.length)
