"""Philox against its published answers, and sampling by noise against the softmax it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from cast_kernels.gumbel import gumbel_argmax, gumbel_noise, highest, parity, reference
from cast_kernels.gumbel.philox import philox_4x64, row_words, scattered_words

# Random123, kat_vectors: philox4x64, 10 rounds.
KNOWN_ANSWERS = [
    (
        "0000000000000000 " * 4,
        "0000000000000000 " * 2,
        "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
    ),
    (
        "ffffffffffffffff " * 4,
        "ffffffffffffffff " * 2,
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
    (
        "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
        "452821e638d01377 be5466cf34e90c6c",
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
]
UINT64 = st.integers(0, 2**64 - 1)


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint64)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, answer) -> None:
    found = philox_4x64(words(counter)[:, None], words(key)[:, None])
    assert found[:, 0].tolist() == words(answer).tolist()


@given(st.lists(UINT64, min_size=4, max_size=4), st.lists(UINT64, min_size=2, max_size=2))
@settings(deadline=None)
def test_philox_is_that_of_numpy(counter, key) -> None:
    """Which moves its counter, 256 bits wide, before it makes a block."""
    before = sum(word << (64 * place) for place, word in enumerate(counter)) - 1
    numpy_key = np.array(key, np.uint64)
    expected = np.random.Philox(key=numpy_key, counter=before % 2**256).random_raw(4)
    found = philox_4x64(np.array(counter, np.uint64)[:, None], numpy_key[:, None])
    assert found[:, 0].tolist() == expected.tolist()


@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    position=st.integers(0, 2**40),
    tokens=st.lists(st.integers(0, 999), max_size=9),
)
@settings(deadline=None)
def test_words_in_order_and_scattered_are_the_same(seed, position, tokens) -> None:
    row = row_words(seed, position, 1000)
    token_I = np.array(tokens, np.int64)
    scattered = scattered_words(*(np.full(len(tokens), x) for x in (seed, position)), token_I)
    assert scattered.tolist() == row[token_I].tolist()
    assert row_words(seed, position, 997).tolist() == row[:997].tolist()


def test_noise_words_are_laid_out_as_the_contract_says() -> None:
    seed, position = 0x299F31D0_A4093822, 77
    counter = np.array([[6], [position], [0], [0]], np.uint64)
    outputs = philox_4x64(counter, np.array([[seed], [0]], np.uint64))[:, 0].tolist()
    halves = [half for one in outputs for half in (one & 0xFFFFFFFF, one >> 32)]
    uniform = (np.array(halves, np.float64) + 0.5) / 2**32
    noise = gumbel_noise(torch.tensor(seed), torch.tensor(position), torch.arange(40, 48))
    assert np.array_equal(noise.numpy(), -np.log(-np.log(uniform)))


def test_noise_is_finite_at_both_ends_of_the_uniform() -> None:
    noise = gumbel_noise(torch.arange(2000)[:, None], torch.tensor(3), torch.arange(500)[None])
    assert noise.isfinite().all()
    assert noise.min() > -3.2
    assert noise.max() < 22.9


def test_noise_is_gumbel_and_depends_on_each_argument() -> None:
    n = torch.arange(20000)
    for noise in (
        gumbel_noise(n, torch.tensor(1), torch.tensor(2)),
        gumbel_noise(torch.tensor(1), n, torch.tensor(2)),
        gumbel_noise(torch.tensor(1), torch.tensor(2), n),
        gumbel_noise(n << 32, torch.tensor(1), torch.tensor(2)),
        gumbel_noise(-n, torch.tensor(1), torch.tensor(2)),
    ):
        assert kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3


def test_noise_and_choice_are_independent_of_the_batch() -> None:
    torch.manual_seed(0)
    scores = torch.randn(50, 97) * 3
    seeds, positions = torch.randint(-(2**63), 2**63 - 1, (50,)), torch.randint(0, 4000, (50,))
    together = gumbel_argmax(scores, seeds, positions)
    order = torch.randperm(50)
    assert torch.equal(
        gumbel_argmax(scores[order], seeds[order], positions[order]), together[order]
    )
    grid = gumbel_noise(seeds[:, None], positions[:, None], torch.arange(97)[None])
    for row in range(50):
        alone = gumbel_argmax(scores[row : row + 1], seeds[row : row + 1], positions[row : row + 1])
        assert alone[0] == together[row]
        assert gumbel_noise(seeds[row], positions[row], torch.tensor(13)) == grid[row, 13]


@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 0.1, 1.0, 8.0, 30.0, 1e3, 1e6, 1e30]),
    forbidden=st.sampled_from([0.0, 0.3, 0.98]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=150, deadline=None)
def test_pruning_changes_no_choice(seed, spread, forbidden, dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(8, 300, generator=generator, dtype=dtype) * spread
    hidden = torch.rand(8, 300, generator=generator) < forbidden
    hidden[:, 17] = False
    scores = scores.masked_fill(hidden, -torch.inf)
    seeds = torch.randint(0, 2**62, (8,), generator=generator)
    positions = torch.randint(0, 10**6, (8,), generator=generator)
    parity.check(gumbel_argmax, scores, seeds, positions)
    chosen = gumbel_argmax(scores, seeds, positions)
    assert scores.gather(1, chosen[:, None]).isfinite().all()


def test_pruning_keeps_what_the_rarest_noise_can_lift() -> None:
    """Scores spaced over the whole range of the noise, where pruning begins to bite."""
    scores = torch.linspace(0, -30, 600).repeat(400, 1)
    seeds, positions = torch.arange(400), torch.zeros(400, dtype=torch.int64)
    parity.check(gumbel_argmax, scores, seeds, positions)


def test_ties_go_to_the_lowest_token_even_where_the_noise_is_rounded_away() -> None:
    scores = torch.full((3, 300), -torch.inf, dtype=torch.float64)
    scores[:, 100:] = 1e17
    seeds = positions = torch.arange(3)
    assert gumbel_argmax(scores, seeds, positions).tolist() == [100] * 3
    parity.check(gumbel_argmax, scores, seeds, positions)


@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_a_bound_that_float32_rounds_below_the_noise_loses_no_token(offset) -> None:
    """Words so rare that bound and noise are the same but for rounding."""
    scores = np.array([-3.0, 0.0, 0.0], np.float32) + np.float32(offset)
    for word in range(2**32 - 500, 2**32):
        assert reference._best(scores, np.array([word, word - 7, word], np.uint32)) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_highest_is_the_first_of_the_highest_and_not_a_number_is_higher(dtype) -> None:
    scores = torch.tensor([[1, 3, 3, 0], [-torch.inf] * 4, [1, torch.inf, torch.nan, 0]])
    assert highest(scores.to(dtype)).tolist() == [1, 0, 2]


def test_what_is_not_a_number_is_chosen_and_changes_no_other_row() -> None:
    scores, seeds, positions = parity.sample(3, 300)
    expected = gumbel_argmax(scores, seeds, positions)
    scores[1, 70] = torch.nan
    assert gumbel_argmax(scores, seeds, positions).tolist() == [expected[0], 70, expected[2]]


@pytest.mark.parametrize("vary", ["seed", "position"])
def test_choices_follow_the_softmax(vary) -> None:
    count = 20000
    scores = torch.tensor([2.0, 1.0, 0.5, 0.0, -torch.inf, -1.0, 1.5, 0.9, -2.0, 0.3])
    n, fixed = torch.arange(count), torch.full((count,), 5)
    seeds, positions = (n, fixed) if vary == "seed" else (fixed, n)
    counts = gumbel_argmax(scores.repeat(count, 1), seeds, positions).bincount(minlength=10)
    possible = scores.isfinite()
    assert not counts[~possible].any()
    expected = scores.double().softmax(0)[possible] * count
    assert chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-3


def test_neighbouring_positions_are_independent() -> None:
    count, scores = 20000, torch.tensor([0.5, 0.0, -0.5])
    seeds = torch.arange(count)
    first, second = (
        gumbel_argmax(scores.repeat(count, 1), seeds, torch.full((count,), position))
        for position in (0, 1)
    )
    joint = torch.outer(scores.double().softmax(0), scores.double().softmax(0)).reshape(-1)
    counts = (first * 3 + second).bincount(minlength=9)
    assert chisquare(counts.numpy(), (joint * count).numpy()).pvalue > 1e-3
