"""The kernel against attention in float64, over pages with NaN wherever nothing was written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_kernels.parity import MOST
from cast_kernels.tree_attention import SequenceRows, kernel, tiling
from cast_kernels.tree_attention.merge import merge
from cast_kernels.tree_attention.paged import PagedBatch, pack
from cast_kernels.tree_attention.parity import relative_error
from cast_kernels.tree_attention.parity import sample as make_step

# (context tokens, rows of a prefill chunk or root, nodes of a tree behind the last of them)
SHAPES = {
    "one row": [(9, 1, 0)],
    "empty prefix": [(0, 7, 0), (0, 1, 5)],
    "page boundaries": [(15, 1, 0), (16, 1, 0), (17, 1, 3), (31, 1, 1), (32, 1, 16)],
    "65 rows": [(20, 1, 64)],
    "three mask words": [(3, 1, 140)],
    "chunk and trees": [(70, 1, 8), (5, 40, 0), (0, 1, 0), (17, 3, 6)],
}


def attend(q, cache, rows, *, page=16, **options):
    return kernel.tree_attention(q, cache, PagedBatch.from_rows(rows, page, q.device), **options)


def last_level(one: SequenceRows, num_rows: int) -> SequenceRows:
    """A draft level: only the last rows of a tree are computed, the others are in the cache."""
    return SequenceRows(one.slots_L, one.mask_RC[-num_rows:], one.depths_C)


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_equals_reference(shape, num_splits, sent) -> None:
    q, cache, rows = make_step(shape)
    q, cache = sent(q, cache)
    out = attend(q, cache, rows, scale=0.2, num_splits=num_splits)
    assert relative_error(out, q, cache, rows, scale=0.2) < 1e-5


@pytest.mark.parametrize("group", [1, 3, 7])
def test_heads_that_do_not_fill_a_tile(group) -> None:
    q, cache, rows = make_step(SHAPES["chunk and trees"], group=group)
    assert relative_error(attend(q, cache, rows, scale=0.2), q, cache, rows, scale=0.2) < 1e-5


@pytest.mark.parametrize("config", tiling.CONFIGS)
@pytest.mark.parametrize("dtype", MOST)
def test_every_configuration(config, dtype, sent) -> None:
    q, cache, rows = make_step([(40, 1, 20), (3, 1, 0)], dtype=dtype, head_dim=64)
    q, cache = sent(q, cache)
    out = attend(q, cache, rows, scale=0.125, num_splits=2, config=config)
    assert out.dtype == dtype
    assert relative_error(out, q, cache, rows, scale=0.125) < MOST[dtype]


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("page", [16, 48, 64])
def test_head_and_page_sizes(head_dim, page, sent) -> None:
    q, cache, rows = make_step([(50, 1, 6), (7, 1, 2)], head_dim=head_dim, page=page)
    q, cache = sent(q, cache)
    options = {"scale": head_dim**-0.5}
    out = attend(q, cache, rows, page=page, **options)
    assert relative_error(out, q, cache, rows, **options) < 1e-5


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [1, 5, 33, 1000])
def test_windows_and_softcap(window, softcap, sent) -> None:
    options = {"scale": 0.5, "window": window, "softcap": softcap}
    q, cache, rows = make_step(SHAPES["chunk and trees"])
    q, cache = sent(q, cache)
    out = attend(q, cache, rows, num_splits=2, **options)
    assert relative_error(out, q, cache, rows, **options) < 1e-5


def test_softcap_far_above_the_scores_stays_exact() -> None:
    q, cache, rows = make_step([(30, 1, 4)])
    options = {"scale": 0.2, "softcap": 100.0}
    assert relative_error(attend(q, cache, rows, **options), q, cache, rows, **options) < 1e-5


@pytest.mark.parametrize("window", [None, 9])
def test_a_draft_level_sees_its_ancestors_in_the_cache(window) -> None:
    _, cache, rows = make_step([(33, 1, 70), (20, 1, 9)])
    levels = [last_level(rows[0], 5), last_level(rows[1], 2)]
    q = torch.randn(7, 4, 16)
    out = attend(q, cache, levels, scale=0.3, window=window)
    assert relative_error(out, q, cache, levels, scale=0.3, window=window) < 1e-5


@pytest.mark.parametrize("num_splits", [1, 2])
def test_idle_rows_come_back_as_they_are(num_splits) -> None:
    q, cache, rows = make_step([(30, 1, 4), (12, 1, 0)], idle=9)
    out = attend(q, cache, rows, scale=1.0, num_splits=num_splits)
    assert torch.equal(out[-9:], q[-9:])
    assert relative_error(out[:-9], q[:-9], cache, rows, scale=1.0) < 1e-5


def test_sequences_without_rows_and_queries_that_are_spread_out() -> None:
    q, cache, rows = make_step([(30, 1, 4), (12, 1, 0)])
    empty = SequenceRows(rows[1].slots_L[:12], np.zeros((0, 0), np.bool_), np.zeros(0, np.int64))
    wide = torch.full((len(q), 3, 4, 16), torch.nan)
    wide[:, 1] = q
    out = attend(wide[:, 1], cache, [empty, rows[0], empty, rows[1], empty], scale=1.0)
    assert relative_error(out, q, cache, rows, scale=1.0) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn])
def test_a_cache_in_float8_with_scales(dtype) -> None:
    q, cache, rows = make_step([(40, 1, 9), (17, 1, 0)])
    scale_2K = torch.tensor([[0.02, 0.5], [3.0, 0.1]])
    stored = (cache / scale_2K[:, :, None]).to(dtype)
    seen = stored.float() * scale_2K[:, :, None]
    out = attend(q, stored, rows, scale=0.2, kv_scale_2K=scale_2K, num_splits=2)
    assert relative_error(out, q, seen, rows, scale=0.2) < 1e-5


@given(
    shape=st.lists(
        st.tuples(st.integers(0, 70), st.integers(1, 20), st.integers(0, 66)),
        min_size=1,
        max_size=3,
    ),
    window=st.none() | st.integers(1, 60),
    num_splits=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=15, deadline=None)
def test_any_ragged_batch(shape, window, num_splits, seed) -> None:
    q, cache, rows = make_step(shape, key_heads=1, group=3, seed=seed)
    options = {"scale": 0.25, "window": window}
    out = attend(q, cache, rows, num_splits=num_splits, **options)
    assert relative_error(out, q, cache, rows, **options) < 1e-5


def test_splits_that_saw_nothing_are_not_read() -> None:
    partial = torch.randn(3, 2, 1, 20)
    lse = torch.tensor([[0.0, -torch.inf], [1.0, 5.0], [-torch.inf, -torch.inf]])[:, :, None]
    partial[lse == -torch.inf] = torch.nan
    out = torch.full((2, 1, 20), 7.0)
    merge(partial, lse, torch.tensor([0, 2], dtype=torch.int32), out)
    torch.testing.assert_close(out[0], (partial[0, 0] + 2 * partial[1, 0]) / 3)
    torch.testing.assert_close(out[1], partial[1, 1])


def test_head_dims_beyond_the_tiles_are_refused() -> None:
    with pytest.raises(AssertionError, match="up to 256, got 512"):
        tiling.choose_config(16, 512, torch.bfloat16)


def test_masks_are_packed_from_the_lowest_bit() -> None:
    mask = np.zeros((2, 70), np.bool_)
    mask[0, [0, 2]] = mask[1, [63, 64]] = True
    assert pack(mask, 2).tolist() == [[5, 0], [-(2**63), 1]]


def test_slots_that_are_no_pages_are_refused() -> None:
    one = SequenceRows(np.array([16, 17, 3]), np.ones((1, 1), np.bool_), np.zeros(1, np.int64))
    with pytest.raises(AssertionError, match="whole pages"):
        PagedBatch.from_rows([one], 16, "cpu")


def test_traffic_is_within_a_tenth_of_the_least() -> None:
    rows, context, key_heads, group, head_dim, batch = 16, 4096, 8, 4, 128, 8
    config = tiling.choose_config(rows * group, head_dim, torch.bfloat16)
    for processors in (108, 132, 148):  # A100, H100 and H200, B200
        splits = tiling.choose_splits(batch * key_heads, processors, context, rows * group)
        moved, least = tiling.traffic(
            rows, context, key_heads, group, head_dim, splits, config.block_m
        )
        assert splits > 1
        assert least < moved < 1.1 * least
