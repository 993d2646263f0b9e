"""Kernel and reference against a loop, with moves that overlap."""

from __future__ import annotations

import pytest
import torch

from cast_kernels.kv_commit import kernel as kv_commit_kernel
from cast_kernels.kv_commit import kv_commit, parity

FUNCTIONS = [kv_commit, kv_commit_kernel.kv_commit]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("moves", [1, 3, 20, 70])
def test_slots_move_all_at_once(moves, dtype, function, sent) -> None:
    cache, source, target = sent(*parity.sample(2, moves, 2, 3, 20, dtype, seed=moves))
    source[1, -1] = -1
    parity.check(function, cache, source, target)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sequences_with_fewer_moves_are_padded(function) -> None:
    cache = torch.arange(2.0 * 12 * 8).view(2, 12, 2, 1, 4)
    before = cache.clone()
    function(cache, torch.tensor([[5, 6], [9, -1]]), torch.tensor([[4, 5], [8, -1]]))
    assert torch.equal(cache[:, [4, 5, 8]], before[:, [5, 6, 9]])
    assert torch.equal(
        cache[:, [0, 1, 2, 3, 6, 7, 9, 10, 11]], before[:, [0, 1, 2, 3, 6, 7, 9, 10, 11]]
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_moves(function) -> None:
    cache = torch.ones(1, 3, 2, 1, 4)
    nothing = torch.zeros(0, dtype=torch.int64)
    function(cache, nothing, nothing)
    assert cache.all()
