"""The n-gram store: it counts as a Counter would, in a file that is small, whole and the same."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters import ngram_store
from cast_drafters.ngram_store import NgramStore, build_store

calm = settings(deadline=None)
texts = st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=5)
tails = st.lists(st.integers(0, 3), max_size=8)
Counts = dict[tuple[int, ...], Counter[int]]
Found = list[tuple[int, int, list[int], list[int]]]  # order, total, tokens, counts


def built(sequences: Sequence[Sequence[int]], backoff: float = 1.0, **options: Any) -> NgramStore:
    with tempfile.TemporaryDirectory() as directory:  # a mapped file outlives its name
        path = Path(directory) / "store"
        build_store(sequences, path, **options)
        return NgramStore.open(path, backoff=backoff)


def found(store: NgramStore, tail: Sequence[int]) -> Found:
    return [
        (order, total, tokens.tolist(), counts.tolist())
        for order, total, tokens, counts in store.lookup(tail)
    ]


def brute_force(sequences: Sequence[Sequence[int]], max_order: int) -> Counts:
    followers: Counts = defaultdict(Counter)
    for sequence in sequences:
        for end in range(1, len(sequence)):
            for start in range(max(0, end - max_order), end):
                followers[tuple(sequence[start:end])][sequence[end]] += 1
    return followers


def expected(followers: Counts, tail: Sequence[int], max_order: int, top: int) -> Found:
    """Up to the first context seen once: longer ones are not kept."""
    longest_first: Found = []
    for order in range(1, min(max_order, len(tail)) + 1):
        counter = followers.get(tuple(tail[-order:]))
        if counter is None:
            break
        ranked = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
        tokens, counts = [token for token, _ in ranked], [count for _, count in ranked]
        longest_first.insert(0, (order, counter.total(), tokens, counts))
        if counter.total() == 1:
            break
    return longest_first


@calm
@given(texts, tails, st.integers(1, 5), st.integers(1, 4))
def test_counts_as_a_counter_does(
    sequences: list[list[int]], tail: list[int], max_order: int, top: int
) -> None:
    store = built(sequences, max_order=max_order, top=top)
    followers = brute_force(sequences, max_order)
    for context in [tail, *followers]:
        assert found(store, context) == expected(followers, context, max_order, top)


@calm
@given(texts, tails, st.integers(1, 4), st.integers(0, 40))
def test_bounds_drop_the_rarest_of_the_highest_order(
    sequences: list[list[int]], tail: list[int], min_count: int, max_entries: int
) -> None:
    store = built(sequences, min_count=min_count, max_entries=max_entries)
    whole = built(sequences)
    contexts = sum(size for size, _ in store.info.sizes)
    assert contexts <= max_entries
    kept, there = found(store, tail), found(whole, tail)
    assert kept == there[len(there) - len(kept) :], "what stays stays as it was"
    assert all(total >= min_count for _, total, *_ in kept)
    room = max_entries
    for order in range(1, 6):
        totals_and_fate: list[tuple[int, bool]] = []
        for context in brute_force(sequences, 5):
            there = found(whole, context)
            if len(context) == len(there) == order:
                totals_and_fate.append((there[0][1], len(found(store, context)) == order))
        common = sorted((total for total, _ in totals_and_fate if total >= min_count), reverse=True)
        stays = sorted((total for total, stayed in totals_and_fate if stayed), reverse=True)
        assert stays == common[:room]
        room -= len(stays)


@calm
@given(texts, tails, st.floats(0.1, 8), st.integers(0, 6))
def test_probabilities_are_those_of_interpolated_backoff(
    sequences: list[list[int]], tail: list[int], backoff: float, width: int
) -> None:
    store = built(sequences, backoff=backoff, top=2)
    wanted: dict[int, float] = defaultdict(float)
    orders: dict[int, int] = {}
    for order, total, tokens, counts in reversed(found(store, tail)):
        seen = dict(zip(tokens, counts, strict=True))
        for token in {*wanted, *seen}:
            wanted[token] = (seen.get(token, 0) + backoff * wanted[token]) / (total + backoff)
        orders |= dict.fromkeys(tokens, order)
    guesses = store.predict(tail, width)
    assert [share for _, share, _ in guesses] == pytest.approx(
        sorted(wanted.values(), reverse=True)[:width]
    )
    for token, share, order in guesses:
        assert 0 < share <= 1
        assert share == pytest.approx(wanted[token])
        assert order == orders[token]
    assert sum(share for _, share, _ in store.predict(tail, 100)) <= 1 + 1e-9


def test_sequences_do_not_run_into_each_other() -> None:
    store = built([[1, 2], [3, 4]])
    assert found(store, [1, 2]) == []
    assert found(store, [1]) == [(1, 1, [2], [1])]
    assert found(store, [2, 3]) == [(1, 1, [4], [1])]


def test_short_tails_find_short_contexts() -> None:
    store = built([[1, 2, 3, 4] * 3])
    assert [order for order, *_ in found(store, [4, 1, 2, 3, 4, 1, 2])] == [5, 4, 3, 2, 1]
    assert [order for order, *_ in found(store, [1, 2])] == [2, 1]
    assert found(store, []) == []
    assert store.predict([], 4) == []


@pytest.mark.parametrize("sequences", [[], [[]], [[7], []]])
def test_a_store_may_be_empty(sequences: list[list[int]]) -> None:
    store = built(sequences)
    assert store.info.sizes == [[0, 0]] * 5
    assert store.predict([7, 7], 4) == []


def test_frequent_contexts_are_scaled_to_16_bits() -> None:
    store = built([([0] * 3 + [1]) * 50_000], max_order=1)
    ((_, total, tokens, counts),) = found(store, [0])
    assert (total, tokens) == (65535, [0, 1])
    assert np.array(counts) / total == pytest.approx([2 / 3, 1 / 3], abs=1e-4)
    assert sum(counts) <= total
    store = built([[0] * 200_000 + [1]], max_order=2)
    assert found(store, [0, 0]) == [(2, 65535, [0], [65534]), (1, 65535, [0], [65534])]


@pytest.mark.parametrize(("largest", "dtype"), [(65535, np.uint16), (65536, np.uint32)])
def test_token_ids_take_no_more_room_than_they_need(largest: int, dtype: type) -> None:
    (continuation,) = built([[3, largest]]).lookup([3])
    assert continuation.tokens.tolist() == [largest]
    assert continuation.tokens.dtype == dtype
    assert not continuation.tokens.flags.writeable


@calm
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)), min_size=1))
def test_builder_and_lookup_hash_alike(pairs: list[tuple[int, int]]) -> None:
    keys = np.array([key for key, _ in pairs], np.uint64)
    tokens = np.array([token for _, token in pairs], np.int64)
    hashes = ngram_store._extend_hashes(keys, tokens)
    assert hashes.tolist() == [ngram_store._extend_hash(*pair) for pair in pairs]


def test_hashes_tell_contexts_apart() -> None:
    tokens = np.random.default_rng(0).integers(0, 49152, 100_000)
    distinct = {tuple(ngram) for ngram in zip(tokens, tokens[1:], tokens[2:], strict=False)}
    hashes = np.full(len(tokens) - 2, 1, np.uint64)
    for order in range(3):
        hashes = ngram_store._extend_hashes(hashes, tokens[order : len(hashes) + order])
    assert len(np.unique(hashes)) == len(distinct)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    sequences = np.random.default_rng(0).integers(0, 9, (20, 50)).tolist()
    for name in ("one", "two"):
        build_store(sequences, tmp_path / name, max_entries=300, provenance={"seed": 0})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"], "nothing left over"


def test_the_header_tells_where_a_store_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "store"
    build_store([[1, 2, 1]], path, max_order=2, vocab_size=3, provenance={"model": "a", "of": [1]})
    info = NgramStore.open(path).info
    assert (info.vocab_size, info.num_tokens, info.sizes) == (3, 3, [[2, 2], [0, 0]])
    assert info.provenance == {"model": "a", "of": [1]}
    header = path.read_bytes().split(b"\n")[0]
    assert (len(header) + 1) % 64 == 0
    assert json.loads(header)["format"] == "castserve-ngrams"


def test_a_failed_build_leaves_the_old_store(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "store"
    build_store([[1, 2]], path)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        build_store([[3, 4]], path)
    assert found(NgramStore.open(path), [1]) == [(1, 1, [2], [1])]
    assert [found.name for found in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    "options", [{"max_order": 0}, {"top": 0}, {"min_count": 0}, {"max_entries": -1}]
)
def test_refuses_settings_out_of_range(options: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be 1 or more and max_entries 0 or more, got .*\."):
        build_store([[1, 2]], tmp_path / "store", **options)


@pytest.mark.parametrize(
    ("token", "vocab_size", "limit"), [(-1, None, 2**32 - 1), (2**32, None, 2**32 - 1), (9, 9, 8)]
)
def test_refuses_tokens_outside_the_vocabulary(
    token: int, vocab_size: int | None, limit: int, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"between 0 and {limit}, got {token}\."):
        build_store([[1, token]], tmp_path / "store", vocab_size=vocab_size)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"GGUF\0\0", b"[1]\n", b'{"format": "else"}\n', b"\xff"])
def test_refuses_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other does not begin like an n-gram store: build one"):
        NgramStore.open(path)


def test_refuses_newer_damaged_and_incomplete_stores(tmp_path: Path) -> None:
    path = tmp_path / "store"
    build_store([[1, 2, 3] * 5], path)
    content = path.read_bytes()
    for size in (len(content) - 1, content.index(b"\n") + 1):
        path.write_bytes(content[:size])
        match = rf"store has {size} bytes where its header calls for {len(content)}: copy or build"
        with pytest.raises(ValueError, match=match):
            NgramStore.open(path)
    path.write_bytes(content.replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(ValueError, match=r"has version 2 .* reads up to 1: update castserve"):
        NgramStore.open(path)
    path.write_bytes(content.replace(b'"sizes"', b'"seizs"'))
    with pytest.raises(ValueError, match=r"The header of .*store is damaged: build the store"):
        NgramStore.open(path)


@pytest.mark.parametrize("backoff", [0.0, -1.0])
def test_refuses_to_trust_the_longest_context_alone(backoff: float) -> None:
    with pytest.raises(ValueError, match=r"backoff must be above 0, got"):
        built([[1, 2]], backoff=backoff)
