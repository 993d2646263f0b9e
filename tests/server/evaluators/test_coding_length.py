"""Coding lengths and information gains: closed forms, and each by the other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.measures.coding_length import coding_length
from cast_server.evaluators.measures.information_gain import information_gains

EXACT = 1e-9


def gaussian(num_tokens: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_tokens, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0, 3.0])
def test_even_rows_fill_the_space(eps) -> None:
    rows = torch.cat([torch.eye(7), -torch.eye(7)])
    found = coding_length(rows, eps)
    assert found.normalised == pytest.approx(1, abs=EXACT)
    assert found.nats == pytest.approx((14 + 7) / 2 * 7 * math.log(1 + 1 / eps**2), abs=EXACT)
    assert found.matrix_entropy == pytest.approx(math.log(7), abs=EXACT)


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0])
def test_rows_of_one_direction(eps) -> None:
    found = coding_length(torch.tensor([[2.0, 1, 0, 5]] * 3 + [[-4.0, -2, 0, -10]]), eps)
    expected = math.log(1 + 4 / eps**2) / (4 * math.log(1 + 1 / eps**2))
    assert found.normalised == pytest.approx(expected, abs=EXACT)
    assert found.matrix_entropy == pytest.approx(0, abs=EXACT)


@pytest.mark.parametrize(("num_tokens", "size"), [(5, 20), (20, 5)])
@pytest.mark.parametrize("is_centred", [False, True])
def test_is_the_determinant_of_the_paper(num_tokens, size, is_centred) -> None:
    rows = gaussian(num_tokens, size) + 1
    z = torch.nn.functional.normalize(rows - rows.mean(0) if is_centred else rows, dim=1)
    matrix = torch.eye(size).double() + size / 0.3**2 * z.T @ z / num_tokens
    found = coding_length(rows, 0.3, is_centred)
    assert found.nats == pytest.approx((num_tokens + size) / 2 * float(matrix.logdet()), abs=1e-8)


def test_no_error_at_all_would_take_forever() -> None:
    with pytest.raises(ValueError, match="eps must be above 0, got 0"):
        coding_length(gaussian(3, 3), 0)


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 2.0])
@pytest.mark.parametrize(("num_tokens", "size"), [(12, 30), (30, 12)])
def test_gain_is_what_ridge_regression_leaves(num_tokens, size, ridge) -> None:
    """ln(1 + r / ridge) and the step of ln det(Z^T Z + ridge I), each computed on its own."""
    rows = gaussian(num_tokens, size)
    z = torch.nn.functional.normalize(rows, dim=1)
    gains = information_gains(rows, ridge)
    assert len(gains) == num_tokens
    eye = torch.eye(size).double()
    for i in range(num_tokens):
        before, token = z[:i], z[i]
        weights = torch.linalg.solve(
            before @ before.T + ridge * torch.eye(i).double(), before @ token
        )
        left = (token - before.T @ weights).square().sum() + ridge * weights.square().sum()
        assert float(gains[i]) == pytest.approx(math.log1p(float(left) / ridge), abs=EXACT)
        a = before.T @ before + ridge * eye
        step = (a + token[:, None] * token).logdet() - a.logdet()
        assert float(gains[i]) == pytest.approx(float(step), abs=EXACT)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31), st.floats(0.05, 2))
def test_gains_sum_to_the_coding_length(num_tokens, size, seed, eps) -> None:
    rows = gaussian(num_tokens, size, seed)
    gains = information_gains(rows, ridge=num_tokens * eps**2 / size)
    half = coding_length(rows, eps).nats
    assert float(gains.sum()) * (num_tokens + size) / 2 == pytest.approx(half, rel=EXACT)
    assert float(gains[0]) == pytest.approx(math.log1p(size / (num_tokens * eps**2)), abs=EXACT)
    assert float(gains.min()) >= 0
    assert float(gains.max()) <= float(gains[0]) + EXACT


def test_a_repeated_token_tells_little() -> None:
    rows = torch.eye(3)[[0, 1, 1, 2, 0]]
    ridge = 0.01
    first, again = math.log(1 + 1 / ridge), math.log(1 + 1 / (1 + ridge))
    expected = [first, first, again, first, again]
    assert information_gains(rows, ridge).tolist() == pytest.approx(expected, abs=EXACT)


def test_nothing_to_gain_from() -> None:
    with pytest.raises(Undefined, match="no_tokens"):
        information_gains(torch.zeros(0, 4), 0.1)
    with pytest.raises(Undefined, match="zero_norm"):
        coding_length(torch.zeros(2, 4), 0.1)
    with pytest.raises(ValueError, match="ridge must be above 0"):
        information_gains(torch.ones(2, 4), 0)
