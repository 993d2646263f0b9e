"""Bytes and operations against tensors that are really there, and against torch's own counter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from cast_kernels import work
from cast_kernels.frontier import frontier
from cast_kernels.frontier import parity as frontier_parity
from cast_kernels.gumbel import gumbel_argmax
from cast_kernels.gumbel import parity as gumbel_parity
from cast_kernels.kv_commit import parity as kv_commit_parity
from cast_kernels.kv_write import parity as kv_write_parity
from cast_kernels.linear import WideLinear
from cast_kernels.linear import parity as linear_parity
from cast_kernels.log_softmax_topk import log_softmax_topk
from cast_kernels.log_softmax_topk import parity as topk_parity
from cast_kernels.norm_linear import norm_linear
from cast_kernels.norm_linear import parity as norm_linear_parity
from cast_kernels.tree_accept import parity as tree_accept_parity
from cast_kernels.tree_accept import tree_accept
from cast_kernels.tree_attention import parity as attention_parity
from cast_kernels.tree_attention import tiling
from cast_kernels.tree_attention.paged import PagedBatch
from cast_kernels.tree_attention.reference import tree_attention_reference

SIZES = st.integers(1, 9)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


def size(*tensors: torch.Tensor) -> int:
    return sum(one.nbytes for one in tensors)


def products(function, *arguments) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


@given(
    shape=st.lists(st.tuples(st.integers(0, 70), SIZES, st.integers(0, 9)), min_size=1, max_size=4),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    dtype=DTYPES,
)
def test_tree_attention(shape, key_heads, group, dtype) -> None:
    options = {"key_heads": key_heads, "group": group, "head_dim": 16, "dtype": dtype}
    q, cache, rows = attention_parity.sample(shape, **options)
    batch = PagedBatch.from_rows(rows, 16, "cpu")
    seen = sum(int(one.mask_RC.sum()) for one in rows)
    found = work.tree_attention(
        [(one.num_rows, one.num_keys - one.num_rows) for one in rows],
        key_heads,
        group,
        16,
        width=dtype.itemsize,
        seen=seen,
    )
    keys = [cache[torch.from_numpy(one.slots_L)] for one in rows]
    pages = sum(len(np.unique(one.slots_L // 16)) for one in rows)
    tables = size(batch.cu_rows_B1, batch.cu_tree_B1, batch.context_B, batch.mask_NW) + 4 * pages
    out = tree_attention_reference(q, cache, rows, scale=1.0)
    assert found.bytes_read == size(q, *keys) + tables
    assert found.bytes_written == size(out)
    visible = sum(int(one.visible(None).sum()) for one in rows)
    assert found.operations == sum(2 * 2 * visible * 16 for _ in range(key_heads * group))


def test_tree_attention_asks_for_no_more_than_dense_products() -> None:
    """torch counts every pair of a row and a key, whether the row sees the key or not."""
    q, k, v = torch.randn(1, 6, 5, 16), torch.randn(1, 6, 45, 16), torch.randn(1, 6, 45, 16)
    dense = products(lambda: (q @ k.mT).softmax(-1) @ v)
    full = work.tree_attention([(5, 40)], 6, 1, 16, seen=25).operations
    assert full == dense
    assert work.tree_attention([(5, 40)], 6, 1, 16).operations < dense


def test_what_the_kernel_moves_is_within_a_tenth_of_this() -> None:
    rows, context, key_heads, group, head_dim, batch = 16, 4096, 8, 4, 128, 8
    least = work.tree_attention([(rows, context)] * batch, key_heads, group, head_dim).bytes_moved
    config = tiling.choose_config(rows * group, head_dim, torch.bfloat16)
    for processors in (108, 132, 148):
        splits = tiling.choose_splits(batch * key_heads, processors, context, rows * group)
        shape = (rows, context, key_heads, group, head_dim, splits, config.block_m)
        moved = batch * tiling.traffic(*shape)[0]
        assert least < moved < 1.1 * least


@pytest.mark.parametrize("cache_dtype", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("rows", [1, 7])
def test_kv_write(rows, cache_dtype) -> None:
    cache, k, v, slot = kv_write_parity.sample(rows, 20, 3, 16, torch.bfloat16)
    scale = [torch.ones(2, 3)] if cache_dtype.itemsize == 1 else []
    found = work.kv_write(rows, 3, 16, cache_width=cache_dtype.itemsize)
    assert found.bytes_read == size(k, v, slot, *scale)
    assert found.bytes_written == size(cache[slot].to(cache_dtype))
    assert found.operations == (size(k, v) // 2 if scale else 0)


@given(batch=SIZES, moves=SIZES, layers=st.integers(1, 3), dtype=DTYPES)
def test_kv_commit(batch, moves, layers, dtype) -> None:
    cache, source, target = kv_commit_parity.sample(batch, moves, layers, 2, 16, dtype)
    found = work.kv_commit(batch * moves, layers, 2, 16, width=dtype.itemsize)
    moved = size(cache[:, source.flatten()])
    assert found == work.Work(moved + size(source, target), moved, 0)


@given(sizes=st.lists(SIZES, min_size=1, max_size=5), max_depth=st.integers(0, 4))
def test_tree_accept(sizes, max_depth) -> None:
    arguments = tree_accept_parity.sample(sizes)
    out = tree_accept(*arguments, max(sizes), max_depth)
    rows = sum(sizes)
    assert work.tree_accept(rows, len(sizes), max_depth) == work.Work(
        size(*arguments), size(*out), rows
    )


@given(rows=SIZES, vocabulary=st.integers(1, 300), dtype=DTYPES)
def test_gumbel_argmax(rows, vocabulary, dtype) -> None:
    arguments = gumbel_parity.sample(rows, vocabulary, dtype)
    out = gumbel_argmax(*arguments)
    found = work.gumbel_argmax(rows, vocabulary, width=dtype.itemsize)
    assert found == work.Work(size(*arguments), size(out), arguments[0].numel())


@given(rows=SIZES, features=SIZES, outputs=SIZES, dtype=DTYPES)
def test_norm_linear(rows, features, outputs, dtype) -> None:
    x, weight, _ = norm_linear_parity.sample(rows, features, outputs, dtype)
    found = work.norm_linear(rows, features, outputs, width=dtype.itemsize)
    assert found.bytes_read == size(x, weight)
    assert found.bytes_written == size(norm_linear(x, weight, None))
    assert found.operations == products(norm_linear, x, weight, None)


@given(rows=SIZES, vocabulary=st.integers(4, 300), k=st.integers(1, 4), dtype=DTYPES)
def test_log_softmax_topk(rows, vocabulary, k, dtype) -> None:
    logits = topk_parity.sample(rows, vocabulary, dtype)
    out = log_softmax_topk(logits, k)
    found = work.log_softmax_topk(rows, vocabulary, k, width=dtype.itemsize)
    assert found == work.Work(size(logits), size(*out), logits.numel())


@given(batch=SIZES, candidates=SIZES, num_rows=SIZES)
def test_frontier(batch, candidates, num_rows) -> None:
    arguments = frontier_parity.sample(batch, candidates)
    out = frontier(*arguments, num_rows)
    found = work.frontier(batch, candidates, num_rows)
    assert found == work.Work(size(*arguments), size(*out), arguments[0].numel())


@given(rows=SIZES, inputs=SIZES, outputs=SIZES, dtype=DTYPES)
def test_linear(rows, inputs, outputs, dtype) -> None:
    weight, x = linear_parity.sample(rows, inputs, outputs, dtype)
    width = dtype.itemsize
    found = work.linear(rows, inputs, outputs, width=width, weight_width=width, out_width=width)
    assert found.bytes_read == size(x, weight)
    assert found.bytes_written == size(F.linear(x, weight))
    assert found.operations == products(F.linear, x, weight)


def test_wide_linear_keeps_its_weights_narrow() -> None:
    weight, x = linear_parity.sample(3, 16, 40, torch.bfloat16)
    found = work.linear(3, 16, 40, width=4, weight_width=2, out_width=4)
    assert found.bytes_read == size(x.float(), weight)
    assert found.bytes_written == size(WideLinear(weight)(x))


def test_a_floor_is_the_later_of_moving_and_computing() -> None:
    one = work.Work(600, 400, 5000)
    assert one.floor_seconds(1000.0) == 1.0
    assert one.floor_seconds(1000.0, 500.0) == 10.0
    assert one.floor_seconds(10.0, 500.0) == 100.0
