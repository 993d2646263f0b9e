"""MIR, HDR and matrix entropy at the kernels whose values are known; class means."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.measures.class_means import ClassMeans, next_token_classes
from cast_server.evaluators.measures.matrix_information import (
    gram,
    matrix_entropy,
    mir_at_collapse,
    shared_information,
)


def simplex(num_classes: int) -> torch.Tensor:
    return gram(torch.eye(num_classes).double() - 1 / num_classes)


@pytest.mark.parametrize(
    ("num_classes", "mir"),
    [
        (3, 0.5),
        (5, 0.844361),
        (10, 0.952351),
        (20, 0.982604),
        (100, 0.997813),
        (200, 0.999053),
        pytest.param(1000, 0.999855, marks=pytest.mark.slow),
    ],
)
def test_neural_collapse(num_classes, mir) -> None:
    kernel = simplex(num_classes)
    found = shared_information(kernel, kernel)
    assert found.mir == pytest.approx(mir, abs=5e-7)
    assert found.mir == pytest.approx(mir_at_collapse(num_classes), abs=1e-9)
    assert found.hdr == pytest.approx(0, abs=1e-12)
    assert found.entropy1 == pytest.approx(math.log(num_classes - 1), abs=1e-9)


def test_identities_share_everything() -> None:
    found = shared_information(torch.eye(9).double(), torch.eye(9).double())
    assert found.mir == pytest.approx(1, abs=1e-12)
    assert found.hdr == pytest.approx(0, abs=1e-12)
    assert found.mutual_information == pytest.approx(math.log(9), abs=1e-12)


def test_kernels_of_ones_have_nothing_to_share() -> None:
    ones = torch.ones(6, 6).double()
    assert matrix_entropy(ones) == pytest.approx(0, abs=1e-12)
    both = shared_information(ones, ones)
    for ratio in ("mir", "hdr"):
        with pytest.raises(Undefined, match="zero_entropy"):
            getattr(both, ratio)
    one = shared_information(ones, torch.eye(6).double())
    assert one.hdr == pytest.approx(1, abs=1e-12)
    with pytest.raises(Undefined, match="zero_entropy"):
        _ = one.mir
    with pytest.raises(Undefined, match="fewer_than_3_classes"):
        mir_at_collapse(2)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 2**31))
def test_bounds(num_classes, size, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    kernels = [gram(torch.randn(num_classes, size, generator=generator)) for _ in range(2)]
    found = shared_information(*kernels)
    assert max(found.entropy1, found.entropy2) <= found.joint + 1e-9
    assert found.joint <= math.log(num_classes) + 1e-9
    assert -1e-9 <= found.mir <= 1 + 1e-9
    assert 0 <= found.hdr <= 1
    assert shared_information(*kernels[::-1]).mir == pytest.approx(found.mir, abs=1e-9)


def test_rows_without_direction_have_no_kernel() -> None:
    with pytest.raises(Undefined, match="zero_norm"):
        gram(torch.zeros(2, 3))
    with pytest.raises(Undefined, match="not_finite"):
        gram(torch.full((2, 3), math.nan))


def test_classes_are_next_tokens_that_come_twice() -> None:
    texts = [[9, 5, 5, 7, 8], [9, 7, 7, 5, 3], [9]]  # a first token is nobody's next one
    assert next_token_classes(texts, most=10) == ([5, 7], 2)
    assert next_token_classes(texts, most=1) == ([5], 2)
    assert next_token_classes(texts, most=10, least_count=1) == ([5, 7, 3, 8], 4)


def test_class_means_are_those_of_all_states_at_once() -> None:
    texts, states = [[9, 5, 5, 7], [4, 7, 5, 7, 6]], [torch.randn(4, 3), torch.randn(5, 3)]
    means = ClassMeans([5, 7], 3)
    for text, hidden in zip(texts, states, strict=True):
        means.add(text, hidden)
    of_5 = torch.stack([states[0][0], states[0][1], states[1][1]]).double().mean(0)
    of_7 = torch.stack([states[0][2], states[1][0], states[1][2]]).double().mean(0)
    expected = torch.stack([of_5 - of_7, of_7 - of_5]) / 2
    torch.testing.assert_close(means.centred(), expected)
    assert means.num_positions == 6
