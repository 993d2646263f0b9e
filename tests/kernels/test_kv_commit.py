from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_kernels.kv_commit import kv_commit

SLOTS = 12
SLOT = st.integers(0, SLOTS - 1)


def make_cache(dtype=torch.float32) -> torch.Tensor:
    return torch.arange(3 * SLOTS * 2 * 2 * 4).view(3, SLOTS, 2, 2, 4).to(dtype)


@given(targets=st.lists(SLOT, unique=True, max_size=SLOTS), data=st.data())
@settings(max_examples=200, deadline=None)
def test_overlapping_moves_are_done_at_once(targets, data) -> None:
    """Like a dictionary that is read completely before it is written."""
    sources = data.draw(st.lists(SLOT, min_size=len(targets), max_size=len(targets)))
    cache = make_cache()
    old = {slot: cache[:, slot].clone() for slot in range(SLOTS)}
    expected = old | {t: old[s] for s, t in zip(sources, targets, strict=True)}
    kv_commit(
        cache,
        torch.tensor(sources, dtype=torch.int64),
        torch.tensor(targets, dtype=torch.int64),
    )
    for slot in range(SLOTS):
        assert torch.equal(cache[:, slot], expected[slot])


def test_a_tree_path_moves_down_in_every_layer() -> None:
    cache = make_cache(torch.bfloat16)
    before = cache.clone()
    kv_commit(cache, torch.tensor([5, 6, 9]), torch.tensor([4, 5, 6]))
    assert torch.equal(cache[:, 4:7], before[:, [5, 6, 9]])
    assert torch.equal(cache[:, :4], before[:, :4])
    assert torch.equal(cache[:, 7:], before[:, 7:])
