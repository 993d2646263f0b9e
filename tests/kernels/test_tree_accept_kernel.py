"""The kernel against the reference, and the reference against walks that were written out."""

from __future__ import annotations

import pytest
import torch

from cast_kernels.tree_accept import kernel as tree_accept_kernel
from cast_kernels.tree_accept import parity, tree_accept

FUNCTIONS = [tree_accept, tree_accept_kernel.tree_accept]


def as_lists(results):
    return [one.tolist() for one in results]


@pytest.mark.parametrize("accept", FUNCTIONS)
def test_walks_written_out(accept) -> None:
    """A root alone; a chain whose third node is wrong; equal siblings; no rows."""
    chosen = torch.tensor([7, 1, 2, 9, 4, 5, 6, 0, 8])
    tokens = torch.tensor([-1, -1, 1, 2, 3, -1, 5, 5, 6])
    parents = torch.tensor([-1, -1, 0, 1, 2, -1, 0, 0, 1], dtype=torch.int32)
    cu_rows = torch.tensor([0, 1, 5, 9, 9], dtype=torch.int32)
    path, num_accepted, bonus = accept(chosen, tokens, parents, cu_rows, 4, 3)
    assert path.tolist() == [[-1] * 3, [1, 2, -1], [1, 3, -1], [-1] * 3]
    assert num_accepted.tolist() == [0, 2, 2, 0]
    assert bonus.tolist() == [7, 9, 8, -1]
    assert (path.dtype, num_accepted.dtype, bonus.dtype) == (torch.int32, torch.int32, torch.int64)


@pytest.mark.parametrize("max_depth", [0, 1, 6])
@pytest.mark.parametrize("sizes", [[1], [0], [0, 31, 0], [33, 1, 0, 7, 64], [200, 130]])
def test_equals_reference(sizes, max_depth, sent) -> None:
    for seed in range(3):
        rows = sent(*parity.sample(sizes, seed=seed))
        parity.check(tree_accept_kernel.tree_accept, *rows, max(sizes), max_depth)


def test_a_chain_is_accepted_to_its_end() -> None:
    length = 40
    tokens = torch.arange(length)
    parents = torch.arange(-1, length - 1, dtype=torch.int32)
    cu_rows = torch.tensor([0, length], dtype=torch.int32)
    results = tree_accept_kernel.tree_accept(tokens + 1, tokens, parents, cu_rows, length, length)
    assert as_lists(results) == [[[*range(1, length), -1]], [length - 1], [length]]


def test_an_empty_batch() -> None:
    none = torch.empty(0, dtype=torch.int64)
    for accept in FUNCTIONS:
        path, _, bonus = accept(none, none, none.int(), torch.zeros(1, dtype=torch.int32), 0, 4)
        assert (path.shape, bonus.shape) == ((0, 4), (0,))
