"""The kernel against the reference, which must agree bit by bit, and the reference by example."""

from __future__ import annotations

import pytest
import torch

from cast_kernels.frontier import frontier, parity
from cast_kernels.frontier import kernel as frontier_kernel

FUNCTIONS = [frontier, frontier_kernel.frontier]


def check(log_probs, log_weights, num_rows) -> None:
    parity.check(frontier_kernel.frontier, log_probs, log_weights, num_rows)


@pytest.mark.parametrize("select", FUNCTIONS)
def test_example(select) -> None:
    closed = -torch.inf
    log_probs = torch.tensor([[-1.0, closed, -3.0], [-0.5, -2.0, -2.0], [closed] * 3])
    log_weights = torch.tensor([0.0, -1.0, 5.0])
    for num_rows, nodes in [(0, []), (1, [0]), (2, [0, 3]), (3, [0, 2, 3]), (4, [0, 2, 3, 4])]:
        assert select(log_probs, log_weights, num_rows)[0].tolist() == nodes
    flat, counts = select(log_probs, log_weights, 7)
    assert (flat.dtype, counts.dtype) == (torch.int64, torch.int32)
    assert flat.tolist() == [0, 2, 3, 4, 5, -1, -1]
    assert counts.tolist() == [2, 3, 0]


@pytest.mark.parametrize("num_rows", [0, 1, 13, 64, 300])
@pytest.mark.parametrize("shape", [(1, 1), (1, 131), (7, 17), (33, 5)])
def test_equals_reference(shape, num_rows, sent) -> None:
    check(*sent(*parity.sample(*shape, seed=num_rows)), num_rows)


@pytest.mark.parametrize("num_rows", [1, 20, 21, 119])
def test_ties_go_to_the_lower_sequence_and_node(num_rows) -> None:
    torch.manual_seed(0)
    log_probs = -torch.randint(0, 3, (7, 17)).float()
    check(log_probs, torch.zeros(7), num_rows)
    check(log_probs, torch.tensor([1.0, 2.0, 0.0, -torch.inf, 1.0, 0.0, 2.0]), num_rows)
    check(torch.where(log_probs == 0, -0.0, 0.0), torch.full((7,), -0.0), num_rows)


def test_nothing_open_and_nothing_there() -> None:
    check(torch.full((3, 5), -torch.inf), torch.zeros(3), 4)
    for shape in [(0, 5), (3, 0)]:
        check(torch.zeros(shape), torch.zeros(shape[0]), 2)


def test_too_many_nodes_are_refused() -> None:
    with pytest.raises(AssertionError, match="at most 16384 nodes"):
        frontier_kernel.frontier(torch.zeros(129, 128), torch.zeros(129), 1)
