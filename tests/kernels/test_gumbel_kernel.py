"""The kernel makes the noise of the reference, so that it chooses the same tokens."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import triton
import triton.language as tl

from cast_kernels.gumbel import gumbel_argmax, gumbel_noise, parity
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


@triton.jit
def _write_noise(seed_ptr, position_ptr, out_ptr, BLOCKS: tl.constexpr):
    i_row = tl.program_id(0)
    block_C = tl.arange(0, BLOCKS)
    noise_C8 = gumbel_kernel._noise(
        tl.load(seed_ptr + i_row), tl.load(position_ptr + i_row), block_C
    )
    o_C8 = (i_row * BLOCKS + block_C)[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(out_ptr + o_C8, noise_C8)


def test_makes_the_noise_of_the_reference(sent) -> None:
    """Close enough to tell neighbouring 32-bit words apart."""
    seeds, positions = sent(*make(5, 1)[1:])
    noise = torch.empty(5, 1024, dtype=torch.float64, device=seeds.device)
    _write_noise[(5,)](seeds, positions, noise, BLOCKS=128)
    token = torch.arange(1024, device=seeds.device)
    expected = gumbel_noise(seeds[:, None], positions[:, None], token)
    torch.testing.assert_close(noise, expected, atol=1e-13, rtol=1e-13)


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
