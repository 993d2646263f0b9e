"""Steps laid into one piece of memory, one after the other, read as if each had its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cast_kernels.staging import Field, Staging
from cast_kernels.tree_attention import kernel
from cast_kernels.tree_attention.fixed import FixedBatch, Size, fill_counts
from cast_kernels.tree_attention.parity import make_rows, relative_error

CPU = torch.device("cpu")
# (context tokens, rows of a prefill chunk or root, nodes of a tree behind the last of them)
SHAPES = (
    [(3, 1, 140)],
    [(70, 1, 8), (5, 40, 0), (0, 1, 0)],
    [(20, 1, 64)],
    [(15, 1, 2), (33, 1, 0)],
)
LARGEST = Size(rows=150, longest=150, sequences=6, pages=12, words=3)


def make_step(shape, seed=0):
    """Queries, a cache in pages of 16 that is NaN wherever nothing was written, and rows."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    lengths = [sum(one) for one in shape]
    pages = rng.permutation(sum(-(-length // 16) for length in lengths) + 2)
    cache = torch.full((16 * len(pages), 2, 2, 16), torch.nan)
    rows, begin = [], 0
    for one, length in zip(shape, lengths, strict=True):
        own = pages[begin : begin + -(-length // 16)]
        begin += len(own)
        slots = (own[:, None] * 16 + np.arange(16)).reshape(-1)[:length].astype(np.int64)
        cache[slots] = torch.randn(length, 2, 2, 16)
        rows.append(make_rows(rng, slots, *one[1:])[0])
    return torch.randn(sum(one.num_rows for one in rows), 4, 16), cache, rows


def test_a_field_of_any_type_is_where_the_host_has_put_it() -> None:
    fields = {
        "a": Field((3,), torch.bool),
        "b": Field((2, 5), torch.int64),
        "c": Field((0,), torch.int32),
        "d": Field((7,), torch.float32),
        "e": Field((9,), torch.int32),
    }
    staging = Staging(fields, CPU)
    places = [one.data_ptr() for one in staging.device.values() if one.numel()]
    assert all(place % 16 == places[0] % 16 for place in places)
    staging.host["a"][:] = [True, False, True]
    staging.host["b"][:] = -(2**40)
    staging.host["d"][:] = 0.5
    staging.host["e"][:] = range(9)
    staging.wait()
    assert not staging.device["b"].any()
    staging.send(unused=4 * 4)
    assert staging.device["a"].tolist() == [True, False, True]
    assert staging.device["b"].tolist() == [[-(2**40)] * 5] * 2
    assert staging.device["d"].tolist() == [0.5] * 7
    assert staging.device["e"].tolist()[:4] == [0, 1, 2, 3]
    assert [one.data_ptr() for one in staging.device.values() if one.numel()] == places


def test_counts_end_where_the_step_does() -> None:
    cu = torch.full((6,), 9, dtype=torch.int32).numpy()
    cu[0] = 0
    fill_counts(cu, [2, 0, 3])
    assert cu.tolist() == [0, 2, 2, 5, 5, 5]
    fill_counts(cu, [])
    assert cu.tolist() == [0] * 6


@pytest.mark.parametrize("page", [1, 16])
def test_one_memory_for_all_steps(page) -> None:
    """From large steps to small ones: nothing of an earlier one may be seen in a later."""
    fixed = FixedBatch(LARGEST._replace(pages=192 // page), page, CPU, {})
    places = {name: one.data_ptr() for name, one in fixed.device.items()}
    for seed, shape in enumerate(SHAPES):
        q, cache, rows = make_step(shape, seed)
        size = Size.of(rows, page)
        bucket = fixed.size.bucket(next(n for n in (8, 70, 150) if n >= size.rows))
        assert bucket.holds(size)
        fixed.send(rows)
        padded = torch.full((bucket.rows, *q.shape[1:]), torch.nan)
        padded[: len(q)] = q
        out = kernel.tree_attention(padded, cache, fixed.batch(bucket), scale=0.2)
        assert relative_error(out[: len(q)], q, cache, rows, scale=0.2) < 1e-5
        assert out[len(q) :].isnan().all()
    assert {name: one.data_ptr() for name, one in fixed.device.items()} == places


def test_sizes() -> None:
    _, _, rows = make_step([(70, 1, 8), (5, 40, 0), (0, 1, 0)])
    size = Size.of(rows, 16)
    assert size == Size(rows=50, longest=40, sequences=3, pages=5, words=1)
    assert LARGEST.holds(size)
    assert LARGEST.bucket(50).holds(size)
    assert not LARGEST.bucket(49).holds(size)
    assert not LARGEST._replace(pages=4).holds(size)
    assert LARGEST.bucket(2) == Size(rows=2, longest=2, sequences=2, pages=12, words=3)
