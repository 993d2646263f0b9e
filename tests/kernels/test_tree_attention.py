"""The grouped attention against the float64 oracle, and the oracle against plain attention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_kernels.tree_attention import AttentionPlan, SequenceRows, tree_attention
from cast_kernels.tree_attention.parity import make_rows, relative_error
from cast_kernels.tree_attention.plan import CALL, KEY, PAIR
from cast_kernels.tree_attention.reference import tree_attention_reference

# (context tokens, rows of a prefill chunk or root, nodes of a tree behind the last of them)
ONE_ROW = [(9, 1, 0)]
EMPTY_PREFIX = [(0, 7, 0), (0, 1, 5)]
LONG_TREE = [(20, 1, 64)]
LONGER_TREE = [(3, 1, 140)]
CHAINS = [(30, 1, 0), (12, 1, 0), (25, 1, 0)]
EQUAL_ROWS = [(30, 1, 4), (12, 1, 4), (33, 1, 4)]
MIXED = [(300, 1, 8), (5, 40, 0), (0, 1, 0), (17, 3, 6), (40, 1, 70), (2, 1, 3), (280, 1, 0)]
SHAPES = {
    "one row": ONE_ROW,
    "empty prefix": EMPTY_PREFIX,
    "65 rows": LONG_TREE,
    "141 rows": LONGER_TREE,
    "chains": CHAINS,
    "equal rows": EQUAL_ROWS,
    "mixed": MIXED,
}


def make_step(shape, *, key_heads, group, head_dim, dtype, seed=0, idle=0):
    """Queries, a cache that is NaN wherever nothing was written, rows and their parents."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    lengths = [sum(one) for one in shape]
    slots = rng.permutation(sum(lengths) + 50).astype(np.int64)
    cache = torch.full((len(slots), 2, key_heads, head_dim), torch.nan, dtype=dtype)
    rows, parents, begin = [], [], 0
    for one, length in zip(shape, lengths, strict=True):
        own = slots[begin : begin + length]
        cache[own] = torch.randn(length, 2, key_heads, head_dim).to(dtype)
        made = make_rows(rng, own, *one[1:])
        rows.append(made[0])
        parents.append(made[1])
        begin += length
    num_rows = sum(one.num_rows for one in rows) + idle
    q = torch.randn(num_rows, key_heads * group, head_dim).to(dtype)
    return q, cache, rows, parents


def attend(q, cache, rows, **options):
    return tree_attention(q, cache, AttentionPlan(rows, q.device), **options)


@pytest.mark.parametrize("group", [1, 3, 4])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_equals_reference(shape, group) -> None:
    q, cache, rows, _ = make_step(shape, key_heads=2, group=group, head_dim=32, dtype=torch.float32)
    assert relative_error(attend(q, cache, rows, scale=0.2), q, cache, rows, scale=0.2) < 1e-5


@pytest.mark.parametrize("head_dim", [16, 64, 80, 128])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_head_sizes_and_types(head_dim, dtype, most) -> None:
    q, cache, rows, _ = make_step(MIXED, key_heads=2, group=3, head_dim=head_dim, dtype=dtype)
    out = attend(q, cache, rows, scale=head_dim**-0.5)
    assert out.dtype == dtype
    assert relative_error(out, q, cache, rows, scale=head_dim**-0.5) < most


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 5, 64, 65, 1000])
@pytest.mark.parametrize("shape", [EMPTY_PREFIX, LONG_TREE, MIXED])
def test_windows_and_softcap(shape, window, softcap) -> None:
    q, cache, rows, _ = make_step(shape, key_heads=1, group=4, head_dim=16, dtype=torch.float32)
    options = {"scale": 0.5, "window": window, "softcap": softcap}
    assert relative_error(attend(q, cache, rows, **options), q, cache, rows, **options) < 1e-5


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_bfloat16_with_window_and_softcap(softcap) -> None:
    q, cache, rows, _ = make_step(MIXED, key_heads=2, group=1, head_dim=64, dtype=torch.bfloat16)
    options = {"scale": 0.125, "window": 20, "softcap": softcap}
    assert relative_error(attend(q, cache, rows, **options), q, cache, rows, **options) < 1e-2


@pytest.mark.parametrize("shape", [ONE_ROW, EQUAL_ROWS, MIXED])
def test_idle_rows_come_back_as_they_are(shape) -> None:
    q, cache, rows, _ = make_step(
        shape, key_heads=2, group=2, head_dim=16, dtype=torch.float32, idle=3
    )
    out = attend(q, cache, rows, scale=1.0)
    assert torch.equal(out[-3:], q[-3:])
    assert relative_error(out[:-3], q[:-3], cache, rows, scale=1.0) < 1e-5


def test_arguments_are_only_read() -> None:
    q, cache, rows, _ = make_step(MIXED, key_heads=2, group=2, head_dim=16, dtype=torch.float32)
    q_before, cache_before = q.clone(), cache.clone()
    attend(q, cache, rows, scale=1.0)
    assert torch.equal(q, q_before)
    assert torch.equal(cache.nan_to_num(7.0), cache_before.nan_to_num(7.0))


def test_one_plan_serves_layers_with_different_windows() -> None:
    q, cache, rows, _ = make_step(MIXED, key_heads=2, group=2, head_dim=16, dtype=torch.float32)
    plan = AttentionPlan(rows, q.device)
    assert len(plan.groups) > 2
    for window in (7, None, 7, 30):
        out = tree_attention(q, cache, plan, scale=1.0, window=window)
        assert relative_error(out, q, cache, rows, scale=1.0, window=window) < 1e-5


@given(
    shape=st.lists(
        st.tuples(st.integers(0, 90), st.integers(1, 40), st.integers(0, 70)),
        min_size=1,
        max_size=6,
    ),
    window=st.none() | st.integers(1, 80),
    group=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_any_ragged_batch(shape, window, group, seed) -> None:
    q, cache, rows, _ = make_step(
        shape, key_heads=2, group=group, head_dim=16, dtype=torch.float32, seed=seed
    )
    options = {"scale": 0.25, "window": window}
    assert relative_error(attend(q, cache, rows, **options), q, cache, rows, **options) < 1e-5


@pytest.mark.parametrize("window", [None, 1, 6, 40])
@pytest.mark.parametrize("shape", [EMPTY_PREFIX, LONG_TREE, [(25, 4, 30)]])
def test_reference_is_plain_attention_along_each_path(shape, window) -> None:
    q, cache, rows, parents = make_step(
        shape, key_heads=1, group=1, head_dim=16, dtype=torch.float64
    )
    out = tree_attention_reference(q, cache, rows, scale=0.3, window=window)
    row_of_step = 0
    for one, own_parents in zip(rows, parents, strict=True):
        context = one.num_keys - one.num_rows
        for row in range(one.num_rows):
            path, node = [], row
            while node >= 0:
                path.insert(0, context + node)
                node = own_parents[node]
            visible = [*range(context), *path]
            keys, values = cache[one.slots_L[visible[-(window or 10**6) :]], :, 0].unbind(1)
            weight = (keys @ q[row_of_step, 0] * 0.3).softmax(0)
            assert torch.allclose(out[row_of_step, 0], weight @ values, atol=1e-12)
            row_of_step += 1


def test_one_large_tree_does_not_pad_all_others() -> None:
    """Sixteen contexts, one with a tree: fifteen plain rows share a call without its seven more."""
    plain = [rows_of(400, 1) for _ in range(15)]
    plan = AttentionPlan([*plain[:7], rows_of(400, 8), *plain[7:]], torch.device("cpu"))
    assert sorted(len(group.members) for group in plan.groups) == [1, 15]
    assert sorted(group.num_rows for group in plan.groups) == [1, 8]


def test_short_contexts_share_a_call_with_a_tree() -> None:
    """Where there is little to pad, a call costs more."""
    plan = AttentionPlan([rows_of(20, 1), rows_of(24, 3), rows_of(30, 1)], torch.device("cpu"))
    assert len(plan.groups) == 1


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 900)), min_size=1, max_size=6))
def test_the_split_is_the_cheapest_of_neighbours(sizes) -> None:
    rows = [rows_of(num_rows + context, num_rows) for num_rows, context in sizes]

    def cost(groups) -> float:
        return sum(
            CALL
            + len(group)
            * max(rows[i].num_keys for i in group)
            * (KEY + PAIR * max(rows[i].num_rows for i in group))
            for group in groups
        )

    order = sorted(range(len(rows)), key=lambda i: (rows[i].num_rows, rows[i].num_keys))
    cuts = itertools.product([False, True], repeat=len(rows) - 1)
    splits = (_cut(order, cut) for cut in cuts)
    found = [
        [next(i for i, one in enumerate(rows) if one is member) for member in group.members]
        for group in AttentionPlan(rows, torch.device("cpu")).groups
    ]
    assert sorted(i for group in found for i in group) == list(range(len(rows)))
    assert cost(found) == pytest.approx(min(map(cost, splits)))


def rows_of(num_keys: int, num_rows: int) -> SequenceRows:
    mask = np.tri(num_rows, dtype=np.bool_)
    return SequenceRows(np.arange(num_keys), mask, np.arange(num_rows))


def _cut(order, cuts):
    groups = [[order[0]]]
    for index, is_new in zip(order[1:], cuts, strict=True):
        if is_new:
            groups.append([])
        groups[-1].append(index)
    return groups
