"""Philox against its published answers, and sampling by noise against the softmax it stands for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from cast_kernels.gumbel import gumbel_argmax, gumbel_noise, parity, philox_4x32

# Random123, kat_vectors: philox4x32, 10 rounds.
KNOWN_ANSWERS = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([int(word, 16)]) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, answer) -> None:
    assert philox_4x32(words(counter), words(key)) == words(answer)


def test_noise_words_are_laid_out_as_the_contract_says() -> None:
    seed, position = 0x299F31D0_A4093822, 77
    zero = torch.tensor([0])
    key = (torch.tensor([seed & 0xFFFFFFFF]), torch.tensor([seed >> 32]))
    expected = torch.cat(philox_4x32((torch.tensor([5]), torch.tensor([77]), zero, zero), key))
    uniform = (expected.double() + 0.5) / 2**32
    noise = gumbel_noise(torch.tensor(seed), torch.tensor(position), torch.arange(20, 24))
    assert torch.equal(noise, -torch.log(-torch.log(uniform)))


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
