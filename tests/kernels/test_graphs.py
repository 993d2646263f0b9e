"""Buckets, and functions that are called as long as nobody has recorded them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cast_kernels.graphs import Graph, bucket_sizes, capture_all


def test_powers_of_two_then_halved_gaps() -> None:
    assert bucket_sizes(7, 64) == (1, 2, 4, 8, 16, 32, 64)
    assert bucket_sizes(4, 64) == (8, 16, 32, 64)
    assert bucket_sizes(12, 64) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    assert bucket_sizes(3, 20) == (8, 16, 20)
    assert bucket_sizes(9, 3) == (1, 2, 3)
    assert bucket_sizes(0, 64) == ()


@given(st.integers(1, 40), st.integers(1, 300))
def test_buckets_rise_to_the_most(count, most) -> None:
    sizes = bucket_sizes(count, most)
    assert sizes[-1] == most
    assert len(sizes) == min(count, most)
    assert all(low < high for low, high in pairwise(sizes))


def test_what_is_not_recorded_is_called() -> None:
    calls = []
    graph = Graph(lambda: calls.append(1) or len(calls))
    assert [graph(), graph()] == [1, 2]
    assert not graph.is_captured


def test_where_nothing_can_be_recorded_it_is_said_once(caplog) -> None:
    graphs = [Graph(lambda: 1), Graph(lambda: 2)]
    assert not capture_all(graphs, "ones and twos")
    [said] = caplog.messages
    assert said.startswith("There are no CUDA graphs of ones and twos, they cannot be recorded: ")
    assert [graph() for graph in graphs] == [1, 2]
