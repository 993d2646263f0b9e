"""eRank against closed forms, other routes to the same spectrum, and what must not change it."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_server.evaluators import effective_rank
from cast_server.evaluators.base import Undefined
from cast_server.evaluators.measures.diff_erank import diff_erank, erank_over_texts
from cast_server.evaluators.measures.effective_rank import measure, norm_ratio
from cast_server.evaluators.measures.spectrum import eigenvalues, unit_rows

EXACT = 1e-9
sizes = st.tuples(st.integers(2, 24), st.integers(2, 24), st.integers(0, 2**31))


def gaussian(num_tokens: int, size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_tokens, size, generator=generator, dtype=torch.float64)


def cross_polytope(size: int) -> torch.Tensor:
    return torch.cat([torch.eye(size), -torch.eye(size)]).double()


def line_beside_the_origin(num_points: int) -> torch.Tensor:
    steps = torch.arange(num_points, dtype=torch.float64)[:, None]
    return torch.tensor([3.0, -1.0, 7.0]) + steps * torch.tensor([0.1, 0.2, -0.3])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (cross_polytope(8), 8),
        *[(torch.eye(count), count - 1) for count in (2, 3, 5, 10, 100)],
        (torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.5, 9.0]]), 1),
        (line_beside_the_origin(6), 1),
        (line_beside_the_origin(7), 1),  # the one in the middle is the mean
        (
            torch.tensor([[1.0, 0], [-1, 0]] * 3 + [[0.0, 1], [0, -1]]),
            math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)),
        ),
    ],
)
def test_closed_forms(rows, expected) -> None:
    assert effective_rank(rows) == pytest.approx(expected, abs=EXACT)


def test_three_pairs_and_one() -> None:
    pairs = torch.tensor([[1.0, 0], [-1, 0]] * 3 + [[0.0, 1], [0, -1]])
    assert effective_rank(pairs) == pytest.approx(1.7547653506, abs=1e-10)


@pytest.mark.parametrize(
    ("num_tokens", "size"),
    [(33, 768), (129, 768), (513, 768), (769, 768), (2048, 768), (65, 2048)],
)
def test_gaussian_tokens(num_tokens, size) -> None:
    smaller, larger = sorted((num_tokens - 1, size))
    expected = smaller * math.exp(-smaller / (2 * larger))
    assert effective_rank(gaussian(num_tokens, size)) == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize(("num_tokens", "size"), [(9, 40), (40, 9), (17, 17), (2, 5), (5, 1)])
def test_three_routes_to_one_spectrum(num_tokens, size) -> None:
    unit_ND = unit_rows(gaussian(num_tokens, size)).rows_ND
    values = eigenvalues(unit_ND).flip(0)
    by_svd = torch.linalg.svdvals(unit_ND).square() / num_tokens
    by_covariance = torch.linalg.eigvalsh(unit_ND.T @ unit_ND / num_tokens).flip(0)
    torch.testing.assert_close(values, by_svd[: len(values)], rtol=0, atol=EXACT)
    torch.testing.assert_close(values, by_covariance[: len(values)], rtol=0, atol=EXACT)
    p = by_covariance.clamp(min=1e-300)
    by_definition = math.exp(float(-(p * p.log()).sum()))
    assert effective_rank(gaussian(num_tokens, size)) == pytest.approx(by_definition, abs=EXACT)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (torch.zeros(0, 4), "fewer_than_2_tokens"),
        (torch.ones(1, 4), "fewer_than_2_tokens"),
        (torch.full((7, 4), 0.1), "zero_variance"),
        (torch.full((7, 4), 0.1, dtype=torch.float64) * 1e8, "zero_variance"),
        (torch.zeros(3, 4), "zero_variance"),
        (torch.tensor([[1.0, math.nan], [0, 1]]), "not_finite"),
        (torch.tensor([[1.0, math.inf], [0, 1]]), "not_finite"),
    ],
)
def test_undefined_has_a_reason(rows, reason) -> None:
    with pytest.raises(Undefined) as caught:
        effective_rank(rows)
    assert caught.value.reason == reason


def test_a_shape_that_is_no_text_is_named() -> None:
    with pytest.raises(ValueError, match=r"\[tokens, features\], got \(2, 3, 4\)"):
        effective_rank(torch.zeros(2, 3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_any_dtype(dtype) -> None:
    rows = (gaussian(20, 8) * 10).to(dtype)
    assert effective_rank(rows) == pytest.approx(effective_rank(rows.double()), abs=EXACT)


def test_rows_that_are_the_mean_are_counted_and_do_not_count() -> None:
    rows = torch.cat([cross_polytope(4), torch.zeros(3, 4)])
    found = measure(rows + 5)
    assert (found.num_tokens, found.num_dropped, found.largest) == (8, 3, 4)
    assert found.erank == pytest.approx(4, abs=EXACT)


def test_a_row_of_noise_does_not_count() -> None:
    """1e-8 of the others: scaled to length one it would count as much as they do."""
    noise = 1e-8 * torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]])
    found = measure(torch.cat([cross_polytope(4), noise]))
    assert (found.num_tokens, found.num_dropped) == (8, 2)
    assert found.erank == pytest.approx(4, abs=EXACT)


@given(st.integers(2, 30), st.integers(1, 9), st.integers(0, 2**31))
def test_one_row_over_and_over_has_no_variance(num_tokens, size, seed) -> None:
    """Centring it leaves rounding, all of it pointing somewhere."""
    rows = gaussian(1, size, seed).repeat(num_tokens, 1)
    with pytest.raises(Undefined, match="zero_variance"):
        effective_rank(rows)


def test_by_products() -> None:
    even = measure(cross_polytope(6))
    assert even.participation_ratio == pytest.approx(6, abs=EXACT)
    assert even.normalised == pytest.approx(1, abs=EXACT)
    assert even.entropy_gap == pytest.approx(0, abs=EXACT)
    uneven = measure(gaussian(50, 6) * torch.tensor([9.0, 1, 1, 1, 1, 1]))
    assert uneven.entropy_gap == pytest.approx(-math.log(uneven.normalised), abs=EXACT)
    assert 1 < uneven.participation_ratio < uneven.erank < 6


@given(sizes)
def test_moves_that_change_nothing(size) -> None:
    rows = gaussian(*size)
    generator = torch.Generator().manual_seed(size[2])
    order = torch.randperm(len(rows), generator=generator)
    square = gaussian(size[1], size[1], size[2] + 1)
    rotation = torch.linalg.qr(square).Q
    expected = effective_rank(rows)
    for moved in (
        rows @ rotation,
        rows + 10 * square[0],
        rows * 1e-7,
        rows * 1e9,
        rows[order],
        rows.repeat(2, 1),
        rows.repeat_interleave(3, 0),
    ):
        assert effective_rank(moved) == pytest.approx(expected, abs=EXACT)


@given(sizes)
def test_bounds(size) -> None:
    found = measure(gaussian(*size))
    assert found.largest == min(size[0] - 1, size[1])
    assert 1 - EXACT <= found.erank <= found.largest + EXACT
    assert 1 - EXACT <= found.participation_ratio <= found.erank + EXACT


def test_a_token_far_longer_than_the_rest_takes_the_rank_away() -> None:
    rows = gaussian(60, 32)
    rows[0] *= 150
    assert norm_ratio(rows) > 100
    assert effective_rank(rows) < 3 < 20 < effective_rank(rows[1:])


@settings(deadline=None)
@given(st.lists(st.floats(0, 7), min_size=1, max_size=12))
def test_geometric_mean_is_never_above_the_mean(entropies) -> None:
    a, b = (erank_over_texts(entropies, algorithm).value for algorithm in ("a", "b"))
    assert a <= b * (1 + 1e-12)
    assert a == pytest.approx(math.exp(statistics.fmean(entropies)))
    assert b == pytest.approx(statistics.fmean(map(math.exp, entropies)))


@pytest.mark.parametrize("algorithm", ["a", "b"])
def test_difference_over_texts_and_seeds(algorithm) -> None:
    generator = np.random.default_rng(5)
    trained, *untrained = (generator.uniform(low, low + 1, 20).tolist() for low in (1, 2.5, 3))
    found = diff_erank(untrained, trained, algorithm)
    means = [erank_over_texts(entropies, algorithm).value for entropies in (*untrained, trained)]
    assert found.value == pytest.approx((means[0] + means[1]) / 2 - means[2])
    assert found.interval.low < found.value < found.interval.high
    assert found == diff_erank(untrained, trained, algorithm)
    assert found.interval != diff_erank(untrained, trained, algorithm, seed=1).interval
    assert diff_erank([[3.0]], [1.0], algorithm).interval is None


def test_texts_are_resampled_in_pairs() -> None:
    """Texts differ, but by as much for both models: the difference has hardly an interval."""
    trained = list(np.random.default_rng(0).uniform(1, 3, 30))
    scaled = [entropy + math.log(2) for entropy in trained]  # twice the eRank of each
    alone, paired = erank_over_texts(scaled, "b"), diff_erank([scaled], trained, "b")
    width = paired.interval.high - paired.interval.low
    assert width == pytest.approx((alone.interval.high - alone.interval.low) / 2)


def test_no_texts_have_no_rank() -> None:
    with pytest.raises(Undefined, match="no_texts"):
        erank_over_texts([])


def test_importing_the_measure_imports_no_server() -> None:
    heavy = ("transformers", "fastapi", "cast_server.engine", "cast_server.api")
    code = f"import sys, cast_server.evaluators; print([n for n in {heavy} if n in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.slow
def test_gram_matrix_is_20_times_as_fast_as_the_official_method(request) -> None:
    """The official one: covariance of the features in float32, its SVD. In turns, medians; each on
    one thread, for several of them wait for each other on a busy machine."""
    num_threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(num_threads))
    torch.set_num_threads(1)
    rows = gaussian(128, 768).float()

    def official() -> float:
        centred = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
        s = torch.svd(centred.T @ centred / len(centred)).S
        p = s / s.sum()
        return math.exp(float(-(p * p.log()).nansum()))

    seconds = {official: [], effective_rank: []}
    for _ in range(7):
        for way, arguments in ((official, ()), (effective_rank, (rows,))):
            begin = time.perf_counter()
            way(*arguments)
            seconds[way].append(time.perf_counter() - begin)
    assert effective_rank(rows) == pytest.approx(official(), rel=1e-3)
    slow, fast = (statistics.median(seconds[way]) for way in (official, effective_rank))
    print(f"official {slow * 1e3:.2f} ms, Gram {fast * 1e3:.2f} ms, {slow / fast:.0f} times")
    assert slow >= 20 * fast
