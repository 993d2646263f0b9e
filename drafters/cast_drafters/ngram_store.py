"""What usually follows a few tokens in text the target has written: a file of n-gram counts.

The order of a context is its number of tokens. A file is one line of JSON, padded with spaces to a
multiple of 64 bytes, then the arrays of each order, little-endian and 8-byte aligned. Contexts are
known by a 64-bit hash alone: two of five million are alike in one file of a million.

Shape suffixes: N positions counted, P distinct pairs of a context and a successor, C contexts,
S successors kept, B = C + 1 bounds.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_FORMAT: Final = "castserve-ngrams"
_VERSION: Final = 1
_MAX_HEADER_BYTES: Final = 1 << 24
_MAX_TOTAL: Final = 65535  # larger totals are scaled down to it, and their counts with them
_HASH_SEED: Final = 0x9E3779B97F4A7C15
_HASH_FACTOR: Final = 0xD6E8FEB86659FD93
_HASH_MASK: Final = (1 << 64) - 1

_Place = tuple[np.dtype[Any], int, int]  # of an array in a file: type, length, offset in bytes
_Integers = NDArray[np.integer[Any]]


class Continuation(NamedTuple):
    """What followed the last `order` tokens, likeliest first.

    `tokens` uint16 or uint32 [S], `counts` uint16 [S], both read-only; `total` >= sum of `counts`.
    """

    order: int
    total: int
    tokens: _Integers
    counts: _Integers


class _Table(NamedTuple):
    """All contexts of one order, by rising hash. Successors of c: bounds[c]:bounds[c + 1]."""

    hashes_C: NDArray[np.uint64]
    bounds_B: _Integers
    totals_C: _Integers
    tokens_S: _Integers
    counts_S: _Integers


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """The header of a store. `sizes`: contexts and successors of each order, from order 1 on."""

    format: str
    version: int
    vocab_size: int | None
    num_tokens: int
    top: int
    min_count: int
    token_dtype: str
    sizes: list[list[int]]
    provenance: dict[str, Any]


def build_store(
    sequences: Iterable[Sequence[int]],
    path: Path,
    *,
    max_order: int = 5,
    top: int = 8,
    min_count: int = 1,
    max_entries: int | None = None,
    vocab_size: int | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Counts what follows every context of 1 to `max_order` tokens; n-grams end with a sequence.

    Keeps the `top` most frequent successors (the lower token id on ties) of contexts followed
    `min_count` times or more. Contexts that end with one seen only once are left out: they would
    say the same again. At most `max_entries` contexts stay: the rarest of the highest order go
    first. The same input gives the same bytes. `provenance` must fit JSON. Raises `ValueError` on
    settings out of range and on token ids outside the vocabulary.
    """
    if min(max_order, top, min_count) < 1 or (max_entries is not None and max_entries < 0):
        raise ValueError(
            "max_order, top and min_count must be 1 or more and max_entries 0 or more, got "
            f"{max_order}, {top}, {min_count} and {max_entries}."
        )
    arrays = [np.zeros(0, np.int64), *(np.asarray(sequence, np.int64) for sequence in sequences)]
    tokens_N = np.concatenate(arrays)
    places_N = np.concatenate([np.arange(len(array)) for array in arrays])
    limit = 1 << 32 if vocab_size is None else vocab_size
    if len(tokens_N) and not 0 <= tokens_N.min() <= tokens_N.max() < limit:
        wrong = tokens_N[(tokens_N < 0) | (tokens_N >= limit)][0]
        raise ValueError(f"Token ids must lie between 0 and {limit - 1}, got {wrong}.")
    tables: list[_Table] = []
    room = max_order * len(tokens_N) if max_entries is None else max_entries
    for table in _count(tokens_N, places_N, max_order, top):
        tables.append(_most_frequent(table, min_count, room))
        room -= len(tables[-1].hashes_C)
    info = StoreInfo(
        format=_FORMAT,
        version=_VERSION,
        vocab_size=vocab_size,
        num_tokens=len(tokens_N),
        top=top,
        min_count=min_count,
        token_dtype="<u2" if tokens_N.max(initial=0) < 1 << 16 else "<u4",
        sizes=[[len(table.hashes_C), len(table.tokens_S)] for table in tables],
        provenance=dict(provenance or {}),
    )
    _write(path, info, tables)


class NgramStore:
    """A store on disk, mapped into memory: opening it reads the header only."""

    def __init__(self, info: StoreInfo, tables: Sequence[_Table], backoff: float) -> None:
        self.info = info
        self._tables = tables
        self._backoff = backoff

    @classmethod
    def open(cls, path: Path, *, backoff: float = 4.0) -> NgramStore:
        """`backoff`: how many occurrences of a context the next shorter one's opinion is worth.

        Of 0.25 to 4 the default made new answers of SmolLM2-135M the likeliest.
        Raises `ValueError` on a file that is no such store, newer than this code or incomplete.
        """
        if backoff <= 0:
            raise ValueError(f"backoff must be above 0, got {backoff}.")
        with path.open("rb") as file:
            header = file.readline(_MAX_HEADER_BYTES)
            info = _parse(header, path)
            layout, size = _layout(info, len(header))
            if path.stat().st_size != size:
                raise ValueError(
                    f"{path} has {path.stat().st_size} bytes where its header calls for {size}: "
                    "copy or build it again."
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        tables = [_Table(*(np.frombuffer(mapped, *place) for place in row)) for row in layout]
        return cls(info, tables, backoff)

    def lookup(self, token_ids: Sequence[int]) -> list[Continuation]:
        """What followed the end of `token_ids`, the longest context first; [] if nothing did."""
        found: list[Continuation] = []
        key = _HASH_SEED
        for order, table in enumerate(self._tables[: len(token_ids)], start=1):
            key = _extend_hash(key, int(token_ids[-order]))
            hashes_C = table.hashes_C
            context = int(hashes_C.searchsorted(np.uint64(key)))
            if context == len(hashes_C) or hashes_C[context] != key:
                break  # a longer context is no more frequent, so it is not there either
            kept = slice(table.bounds_B[context], table.bounds_B[context + 1])
            total = int(table.totals_C[context])
            found.append(Continuation(order, total, table.tokens_S[kept], table.counts_S[kept]))
        return found[::-1]

    def predict(self, token_ids: Sequence[int], width: int) -> list[tuple[int, float, int]]:
        """The `width` likeliest next tokens, each with its probability and longest context's order.

        Interpolated: p_n = (count + backoff * p_(n-1)) / (total + backoff), p_0 = 0. Only tokens
        kept for some context found are offered; their probabilities sum to at most 1.
        """
        probabilities: dict[int, float] = {}
        orders: dict[int, int] = {}
        for order, total, tokens, counts in reversed(self.lookup(token_ids)):
            share = 1.0 / (total + self._backoff)
            for token in probabilities:
                probabilities[token] *= self._backoff * share
            for token, count in zip(tokens.tolist(), counts.tolist(), strict=True):
                probabilities[token] = probabilities.get(token, 0.0) + count * share
                orders[token] = order
        likeliest = sorted(probabilities, key=probabilities.__getitem__, reverse=True)[:width]
        return [(token, probabilities[token], orders[token]) for token in likeliest]


def _extend_hash(key: int, token: int) -> int:
    """The hash of a context one token longer, towards the past."""
    key = ((key ^ token) * _HASH_FACTOR) & _HASH_MASK
    return key ^ (key >> 32)


def _extend_hashes(keys_N: NDArray[np.uint64], tokens_N: NDArray[np.int64]) -> NDArray[np.uint64]:
    """`_extend_hash` of each: unsigned arrays wrap at 64 bits by themselves."""
    keys_N = (keys_N ^ tokens_N.astype(np.uint64)) * np.uint64(_HASH_FACTOR)
    return keys_N ^ (keys_N >> np.uint64(32))


def _count(
    tokens_N: NDArray[np.int64], places_N: NDArray[np.int64], max_order: int, top: int
) -> Iterable[_Table]:
    """One table per order. A position is where a successor stands; its context ends before it."""
    positions_N = np.arange(len(tokens_N))
    hashes_N = np.full(len(tokens_N), _HASH_SEED, np.uint64)
    kept_N = places_N >= 1
    for order in range(1, max_order + 1):
        positions_N = positions_N[kept_N]
        hashes_N = _extend_hashes(hashes_N[kept_N], tokens_N[positions_N - order])
        table = _count_order(hashes_N, tokens_N[positions_N], top)
        yield table
        repeated_C = table.totals_C > 1
        kept_N = repeated_C[np.searchsorted(table.hashes_C, hashes_N)]
        kept_N &= places_N[positions_N] > order


def _count_order(hashes_N: NDArray[np.uint64], tokens_N: NDArray[np.int64], top: int) -> _Table:
    ranking_N = np.lexsort((tokens_N, hashes_N))
    hashes_N, tokens_N = hashes_N[ranking_N], tokens_N[ranking_N]
    opens_context_N = _changes(hashes_N)
    starts_C = np.flatnonzero(opens_context_N)
    starts_P = np.flatnonzero(opens_context_N | _changes(tokens_N))
    contexts_P = (np.cumsum(opens_context_N) - 1)[starts_P]
    exact_C = np.diff(starts_C, append=len(hashes_N))
    totals_C = np.minimum(exact_C, _MAX_TOTAL)
    counts_P = np.diff(starts_P, append=len(hashes_N)) * totals_C[contexts_P] // exact_C[contexts_P]
    ranking_P = np.lexsort((-counts_P, contexts_P))  # stable: the lower token id on ties
    counts_P = counts_P[ranking_P]
    ranks_P = np.arange(len(starts_P)) - np.searchsorted(contexts_P, contexts_P)
    kept_P = (ranks_P < top) & (counts_P > 0)
    bounds_B = np.append(0, np.bincount(contexts_P[kept_P], minlength=len(starts_C))).cumsum()
    tokens_S = tokens_N[starts_P[ranking_P[kept_P]]]
    return _Table(hashes_N[starts_C], bounds_B, totals_C, tokens_S, counts_P[kept_P])


def _changes(values_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value differs from the one before it; the first one does."""
    changes_N: NDArray[np.bool_] = np.diff(values_N, prepend=~values_N[:1]) != 0
    return changes_N


def _most_frequent(table: _Table, min_count: int, room: int) -> _Table:
    """At most `room` contexts, the lower hash on ties."""
    hashes_C, bounds_B, totals_C, tokens_S, counts_S = table
    kept_C = totals_C >= min_count
    kept_C[np.argsort(-totals_C, kind="stable")[room:]] = False
    sizes_C = np.diff(bounds_B)
    kept_S = np.repeat(kept_C, sizes_C)
    bounds_B = np.append(0, sizes_C[kept_C]).cumsum()
    return _Table(hashes_C[kept_C], bounds_B, totals_C[kept_C], tokens_S[kept_S], counts_S[kept_S])


def _layout(info: StoreInfo, position: int) -> tuple[list[list[_Place]], int]:
    """The arrays of each table after a header that ends at `position`; the size of the file."""
    dtypes = [np.dtype(name) for name in ("<u8", "<u4", "<u2", info.token_dtype, "<u2")]
    layout: list[list[_Place]] = []
    for contexts, successors in info.sizes:
        layout.append([])
        lengths = (contexts, contexts + 1, contexts, successors, successors)
        for dtype, length in zip(dtypes, lengths, strict=True):
            layout[-1].append((dtype, length, position))
            position += dtype.itemsize * length
            position += -position % 8
    return layout, position


def _write(path: Path, info: StoreInfo, tables: Sequence[_Table]) -> None:
    """Beside `path` first: readers see the old file or the whole new one."""
    header = json.dumps(asdict(info)).encode()
    header += b" " * (-(len(header) + 1) % 64) + b"\n"
    layout, size = _layout(info, len(header))
    content = bytearray(header.ljust(size, b"\0"))
    for table, row in zip(tables, layout, strict=True):
        for array, place in zip(table, row, strict=True):
            np.frombuffer(content, *place)[:] = array
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _parse(header: bytes, path: Path) -> StoreInfo:
    try:
        fields = json.loads(header)
        version = int(fields["version"]) if fields["format"] == _FORMAT else 0
    except (ValueError, TypeError, KeyError):
        version = 0
    if version < 1:
        raise ValueError(f"{path} does not begin like an n-gram store: build one with build_store.")
    if version > _VERSION:
        raise ValueError(
            f"{path} has version {version} of the n-gram store, this castserve reads up to "
            f"{_VERSION}: update castserve or build the store again."
        )
    try:
        return StoreInfo(**fields)
    except TypeError:
        raise ValueError(f"The header of {path} is damaged: build the store again.") from None
