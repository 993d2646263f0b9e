"""The kernel against softmax and stable sort."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from cast_kernels.log_softmax_topk import kernel as topk_kernel
from cast_kernels.log_softmax_topk import parity

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SMALL = topk_kernel.CONFIGS[0]


def check(logits, k, config=SMALL) -> None:
    parity.check(partial(topk_kernel.log_softmax_topk, config=config), logits, k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "vocabulary", "k"), [(1, 1, 1), (1, 5, 5), (3, 131, 10), (1, 4099, 16), (2, 512, 1)]
)
def test_equals_reference(rows, vocabulary, k, dtype, sent) -> None:
    check(*sent(parity.sample(rows, vocabulary, dtype, seed=vocabulary)), k)


def test_equal_logits_come_in_order_of_their_indices() -> None:
    torch.manual_seed(0)
    logits = torch.randint(-2, 3, (3, 1300)).float()
    logits[0] = -1.5
    logits[1, logits[1] == 0] = -0.0  # ties with 0
    logits[1, 5:900:3] = 0.0
    check(logits.clamp(max=0.0), 16)
    check(logits.bfloat16(), 13)


def test_forbidden_tokens_come_last() -> None:
    logits = torch.full((2, 1100), -torch.inf)
    logits[0, 1099], logits[1, [3, 700]] = -1e30, 1e4
    check(logits, 7)


def test_default_configuration_and_rows_that_are_spread_out() -> None:
    torch.manual_seed(0)
    check(torch.randn(4, 2100)[::3], 10, topk_kernel.DEFAULT)
    assert topk_kernel.log_softmax_topk(torch.randn(0, 9), 3)[1].shape == (0, 3)
