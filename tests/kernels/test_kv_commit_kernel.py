"""The kernel against the reference, with moves that overlap."""

from __future__ import annotations

import pytest
import torch

from cast_kernels.kv_commit import kernel as kv_commit_kernel
from cast_kernels.kv_commit import kv_commit

FUNCTIONS = [kv_commit, kv_commit_kernel.kv_commit]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("moves", [1, 3, 20, 70])
def test_equals_reference(moves, dtype) -> None:
    torch.manual_seed(moves)
    cache = torch.randn(2, 3 * moves + 40, 2, 3, 20).to(dtype)
    chain = torch.randperm(cache.shape[1])[: 2 * moves + 2].view(2, moves + 1)
    source, target = chain[:, :-1].clone(), chain[:, 1:].clone()  # each overwrites the next source
    source[1, -1] = -1
    expected = cache.clone()
    kv_commit(expected, source, target)
    assert not torch.equal(expected.view(torch.uint8), cache.view(torch.uint8))
    kv_commit_kernel.kv_commit(cache, source, target)
    assert torch.equal(cache.view(torch.uint8), expected.view(torch.uint8))


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
