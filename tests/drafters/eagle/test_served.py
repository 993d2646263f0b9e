"""The served head against plain formulas in float64; and the drafter around it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plain_head as plain
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters.base import DraftContext, DraftLimits
from cast_drafters.eagle.drafter import EagleDrafter
from cast_drafters.eagle.served import HeadRows, ServedHead
from cast_kernels.tree_attention import SequenceRows

VARIANTS = [
    {},
    {"has_qkv_bias": True, "norm_before_residual": True},
    {"fc_norm": True, "norm_output": True},
    {"norm_before_fc": True, "num_key_heads": 4},
    {"hidden_size": 24, "head_dim": 6},
]


class Sequence:
    """Tokens, the target's states of all but the last, and slots anywhere in the cache."""

    def __init__(self, length: int, slots: np.ndarray, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(plain.VOCAB, (length,), generator=generator)
        self.taps = [torch.randn(length, plain.WIDTH, generator=generator) for _ in range(3)]
        self.slots = slots

    def chain(self, head: plain.Plain) -> torch.Tensor:
        """What the head makes of the pairs of positions 1 to n - 1."""
        hidden = head.fuse([tap[:-1] for tap in self.taps])
        count = len(self.tokens) - 1
        sees = torch.ones(count, count, dtype=torch.bool).tril()
        return head.forward(self.tokens[1:], hidden, torch.arange(count), sees)


def sequences(lengths, num_slots=96, seed=0) -> list[Sequence]:
    slots = np.random.default_rng(seed).permutation(num_slots)
    ends = np.cumsum(lengths)
    return [
        Sequence(n, slots[end - n : end], seed + i)
        for i, (n, end) in enumerate(zip(lengths, ends, strict=True))
    ]


def served(config, num_scratch=32) -> tuple[ServedHead, plain.Plain]:
    tensors = plain.weights(config)
    head = ServedHead(config, tensors, plain.target(), num_scratch)
    head._kv_cache_S2KD.fill_(torch.nan)
    return head, plain.Plain(config, tensors)


@pytest.mark.parametrize("changes", VARIANTS)
def test_ragged_batch_and_tree_rows_equal_the_formulas(changes) -> None:
    head, right = served(plain.config(**changes))
    batch = sequences([7, 2, 12])
    for one in batch:
        head.fuse(torch.from_numpy(one.slots), one.taps)
    rows = HeadRows(
        np.concatenate([one.tokens[1:].numpy() for one in batch]),
        np.concatenate([np.arange(len(one.tokens) - 1) for one in batch]),
        np.concatenate([one.slots[1:] for one in batch]),
        [chain_rows(one) for one in batch],
    )
    before = head.fused(np.concatenate([one.slots[:-1] for one in batch]))
    out = head.forward(rows, before)
    expected = torch.cat([one.chain(right) for one in batch])
    assert_close(out, expected)
    assert_close(head.log_probs(out), right.log_probs(expected))

    # Two children of the root of each sequence, and a child of the second.
    parents = [-1, -1, 1]
    tokens = torch.tensor([3, 5, 8])
    for index, one in enumerate(batch):
        root = sum(len(b.tokens) - 1 for b in batch[: index + 1]) - 1
        check_tree(head, right, one, out[root], parents, tokens)


def chain_rows(one: Sequence) -> SequenceRows:
    count = len(one.tokens) - 1
    return SequenceRows(one.slots[1:], np.tri(count, dtype=np.bool_), np.arange(count))


def check_tree(head, right, one, root_out, parents, tokens) -> None:
    """Level by level in scratch slots, against all rows at once."""
    count = len(one.tokens) - 1
    scratch = 96 + np.arange(len(parents))
    outs: list[torch.Tensor] = []
    for level in ([0, 1], [2]):
        mask = np.array(
            [
                [node == row or node == parents[row] for node in range(level[-1] + 1)]
                for row in level
            ]
        )
        keys = np.concatenate([one.slots[1:], scratch[: level[-1] + 1]])
        depths = np.array([1, 1, 2])[: level[-1] + 1]
        states = [head.next(root_out if parents[r] < 0 else outs[parents[r]]) for r in level]
        rows = HeadRows(
            tokens[level].numpy(),
            count - 1 + depths[level],
            scratch[level],
            [SequenceRows(keys, mask, depths)],
        )
        outs += list(head.forward(rows, torch.stack(states)))
    hidden = right.fuse([tap[:-1] for tap in one.taps])
    total = count + len(parents)
    sees = torch.eye(total, dtype=torch.bool)
    sees[:, :count] = True
    sees[:count, :count] = torch.ones(count, count).tril().bool()
    sees[:count, count:] = False
    sees[count + 2, count + 1] = True
    positions = torch.cat([torch.arange(count), count - 1 + torch.tensor([1, 1, 2])])
    feed = right.norm if right.c.norm_output else lambda x, _: x
    chain = one.chain(right)
    first = feed(chain[-1:], "norm.weight")
    all_tokens = torch.cat([one.tokens[1:], tokens])
    states = torch.cat([hidden, first, first, first])
    level_one = right.forward(all_tokens, states, positions, sees)
    states = torch.cat([hidden, first, first, feed(level_one[count + 1][None], "norm.weight")])
    expected = right.forward(all_tokens, states, positions, sees)[count:]
    assert_close(torch.stack(outs), expected)


def assert_close(got: torch.Tensor, right: torch.Tensor) -> None:
    assert float((got.double() - right).norm() / right.norm()) < 1e-5


def make_drafter(num_scratch=32, **options) -> tuple[EagleDrafter, plain.Plain]:
    config = plain.config()
    tensors = plain.weights(config)
    head = ServedHead(config, tensors, plain.target(), num_scratch)
    head._kv_cache_S2KD.fill_(torch.nan)
    return EagleDrafter(head, **options), plain.Plain(config, tensors)


def context(one: Sequence, name="a", length=None, limits=None) -> DraftContext:
    count = len(one.tokens) if length is None else length
    limits = limits or DraftLimits(max_nodes=6, max_depth=3, max_width=3)
    return DraftContext(name, one.tokens[:count].tolist(), limits, 0.0, 0, one.slots[:count])


def show(drafter: EagleDrafter, one: Sequence, begin: int, end: int) -> None:
    """What the target's passes over positions [begin, end) leave behind."""
    drafter.record(torch.from_numpy(one.slots[begin:end]), [tap[begin:end] for tap in one.taps])


def expected_children(right: plain.Plain, one: Sequence, length: int, width: int):
    cut = Sequence(length, one.slots[:length], 0)
    cut.tokens, cut.taps = one.tokens[:length], [tap[:length] for tap in one.taps]
    top = right.log_probs(cut.chain(right)[-1]).topk(width)
    ids = plain.weights(right.c)["draft_token_ids"][top.indices]
    return dict(zip(ids.tolist(), top.values.tolist(), strict=True))


def root_children(tree) -> dict[int, float]:
    return {
        int(token): float(log_prob)
        for token, parent, log_prob in zip(
            tree.token_ids_T, tree.parents_T, tree.log_probs_T, strict=True
        )
        if parent < 0
    }


def assert_root(drafter, right, one, length, tree) -> None:
    children = root_children(tree)
    expected = expected_children(right, one, length, 3)
    assert children
    for token, log_prob in children.items():
        assert log_prob == pytest.approx(expected[token], abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_catching_up_in_any_pieces_gives_the_same_tree(data) -> None:
    """Chunks, tokens one by one, several at once, and stretches without drafting."""
    [one] = sequences([20], seed=data.draw(st.integers(0, 99)))
    drafter, right = make_drafter()
    drafter.begin("a", one.tokens[:3].tolist())
    length = data.draw(st.integers(2, 8))
    show(drafter, one, 0, length - 1)
    while True:
        if data.draw(st.booleans()) or length == 20:
            [tree] = drafter.propose([context(one, length=length)])
            assert_root(drafter, right, one, length, tree)
        if length == 20:
            break
        more = min(data.draw(st.integers(1, 5)), 20 - length)
        show(drafter, one, length - 1, length - 1 + more)
        length += more
    fresh, _ = make_drafter()
    show(fresh, one, 0, 19)
    [again] = fresh.propose([context(one)])
    assert again.token_ids_T.tolist() == tree.token_ids_T.tolist()
    assert again.log_probs_T == pytest.approx(tree.log_probs_T, abs=1e-4)


def test_a_batch_equals_its_sequences_alone() -> None:
    batch = sequences([5, 13, 2, 9])
    drafter, _ = make_drafter(num_scratch=64)
    for one in batch:
        show(drafter, one, 0, len(one.tokens) - 1)
    contexts = [context(one, f"s{i}") for i, one in enumerate(batch)]
    together = drafter.propose(contexts)
    for one, i, tree in zip(batch, range(9), together, strict=False):
        alone, _ = make_drafter()
        show(alone, one, 0, len(one.tokens) - 1)
        [right] = alone.propose([context(one, f"s{i}")])
        assert right.token_ids_T.tolist() == tree.token_ids_T.tolist()
        assert right.parents_T.tolist() == tree.parents_T.tolist()
        assert right.log_probs_T == pytest.approx(tree.log_probs_T, abs=1e-4)


def test_shared_prefixes_are_not_computed_again() -> None:
    one, other = sequences([12, 12])
    other.tokens[:8] = one.tokens[:8]
    other.slots = np.concatenate([one.slots[:8], other.slots[8:]])
    for mine, its in zip(one.taps, other.taps, strict=True):
        its[:8] = mine[:8]
    drafter, right = make_drafter()
    show(drafter, one, 0, 11)
    show(drafter, other, 8, 11)
    drafter.propose([context(one, "one")])
    assert drafter.stamps.first_missing(context(other, "other")) == 8
    [tree] = drafter.propose([context(other, "other")])
    assert_root(drafter, right, other, 12, tree)


def test_a_sequence_that_comes_back_in_used_slots_is_computed_again() -> None:
    """Preemption: another sequence has had the slots meanwhile."""
    one, other = sequences([10, 10])
    drafter, right = make_drafter()
    show(drafter, one, 0, 9)
    drafter.propose([context(one, "one")])
    taken = Sequence(10, one.slots, 7)
    show(drafter, taken, 0, 9)
    drafter.propose([context(taken, "taken")])
    show(drafter, one, 0, 9)
    assert drafter.stamps.first_missing(context(one, "one")) == 1
    [tree] = drafter.propose([context(one, "one")])
    assert_root(drafter, right, one, 10, tree)
    assert len(other.tokens) == 10


def test_far_behind_catches_up_in_steps_without_drafts() -> None:
    [one] = sequences([30])
    drafter, right = make_drafter(max_catch_up=12)
    show(drafter, one, 0, 29)
    sizes = []
    for _ in range(3):
        [tree] = drafter.propose([context(one)])
        sizes.append(len(tree))
    assert sizes[:2] == [0, 0]
    assert_root(drafter, right, one, 30, tree)


def test_scratch_slots_run_out_gracefully() -> None:
    batch = sequences([6, 6, 6])
    drafter, _ = make_drafter(num_scratch=4)
    for one in batch:
        show(drafter, one, 0, 5)
    limits = DraftLimits(max_nodes=20, max_depth=6, max_width=3, max_levels=6)
    trees = drafter.propose([context(one, str(i), limits=limits) for i, one in enumerate(batch)])
    assert all(len(tree) for tree in trees)


def test_positions_beyond_the_table_of_the_head() -> None:
    [one] = sequences([90])
    drafter, right = make_drafter()
    show(drafter, one, 0, 89)
    [tree] = drafter.propose([context(one)])
    assert_root(drafter, right, one, 90, tree)


def test_accepted_rows_are_found_where_they_were_moved_to() -> None:
    [one] = sequences([12])
    drafter, right = make_drafter()
    show(drafter, one, 0, 8)
    elsewhere = np.array([slot for slot in range(96) if slot not in one.slots][:3])
    hidden = [tap[8:11] for tap in one.taps]
    drafter.record(torch.from_numpy(elsewhere), hidden)
    drafter.move(torch.from_numpy(elsewhere), torch.from_numpy(one.slots[8:11]))
    [tree] = drafter.propose([context(one)])
    assert_root(drafter, right, one, 12, tree)


@pytest.mark.parametrize("missing", [1, 8, 9, 40])
def test_rows_far_behind_are_remembered_without_attention(missing, monkeypatch) -> None:
    batch = sequences([50, 30])
    drafter, right = make_drafter()
    for i, (one, left) in enumerate(zip(batch, (missing, 1), strict=True)):
        known = len(one.tokens) - left
        show(drafter, one, 0, known - 1)
        drafter.propose([context(one, str(i), known)])
        show(drafter, one, known - 1, len(one.tokens) - 1)
    rows: list[int] = []
    attend = drafter.head.backend.tree_attention

    def counting(q, *args, **options):
        rows.append(len(q))
        return attend(q, *args, **options)

    backend = replace(drafter.head.backend, tree_attention=counting)
    monkeypatch.setattr(drafter.head, "backend", backend)
    trees = drafter.propose([context(one, str(i)) for i, one in enumerate(batch)])
    assert rows[0] == (missing if missing <= 8 else 1) + 1
    for one, tree in zip(batch, trees, strict=True):
        assert_root(drafter, right, one, len(one.tokens), tree)


def test_work_of_catching_up_grows_with_what_is_remembered() -> None:
    [one] = sequences([60])
    drafter, _ = make_drafter()
    show(drafter, one, 0, 59)
    catching_up = drafter.catching_up
    works = [catching_up.work(context(one, length=length)) for length in range(2, 60)]
    assert works[:7] == [1, 2, 3, 4, 5, 6, 7]
    assert works[8:] == sorted(works[8:])
    assert works[-1] < 58
