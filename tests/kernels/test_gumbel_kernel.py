"""The kernel makes the noise of the reference, so that it chooses the same tokens."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from cast_kernels.gumbel import gumbel_argmax, parity
from cast_kernels.gumbel import kernel as gumbel_kernel

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make(rows, vocabulary, dtype=torch.float32):
    return parity.sample(rows, vocabulary, dtype, seed=rows * vocabulary)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 1), (1, 5), (7, 131), (3, 4099), (2, 2048)])
def test_chooses_as_the_reference(rows, vocabulary, dtype, sent) -> None:
    scores, seeds, positions = sent(*make(rows, vocabulary, dtype))
    scores[:, 1::3] = -torch.inf
    parity.check(gumbel_kernel.gumbel_argmax, scores, seeds, positions)


def test_flat_scores_show_the_noise_of_many_tokens() -> None:
    _, seeds, positions = make(40, 1)
    scores = torch.zeros(40, 1500)
    small = partial(gumbel_kernel.gumbel_argmax, config=gumbel_kernel.CONFIGS[0])
    parity.check(small, scores, seeds, positions)


def test_greedy_rows_take_the_first_of_the_highest_scores() -> None:
    scores, seeds, positions = make(4, 4099, torch.bfloat16)  # so coarse that the top is shared
    scores[:, [700, 4000]] = 100.0
    is_greedy = torch.tensor([True, False, True, True])
    tokens, log_probs = gumbel_kernel.gumbel_argmax(scores, seeds, positions, is_greedy)
    noisy = gumbel_argmax(scores, seeds, positions)
    assert tokens.tolist() == [700, noisy[1], 700, 700]
    right = parity.log_prob(scores, tokens)
    torch.testing.assert_close(log_probs, right, atol=1e-5, rtol=1e-5)


def test_one_allowed_token_far_behind_forbidden_tiles() -> None:
    scores = torch.full((2, 4099), -torch.inf)
    scores[0, 4098], scores[1, 3000] = -1e30, 5.0
    tokens, log_probs = gumbel_kernel.gumbel_argmax(scores, torch.arange(2), torch.arange(2))
    assert tokens.tolist() == [4098, 3000]
    assert log_probs.tolist() == [0.0, 0.0]


def test_rows_may_be_spread_out_and_none_may_be_there() -> None:
    scores, seeds, positions = make(6, 131)
    tokens, _ = gumbel_kernel.gumbel_argmax(scores[::2], seeds[::2].clone(), positions[::2].clone())
    assert torch.equal(tokens, gumbel_argmax(scores, seeds, positions)[::2])
    assert gumbel_kernel.gumbel_argmax(scores[:0], seeds[:0], positions[:0])[0].shape == (0,)
