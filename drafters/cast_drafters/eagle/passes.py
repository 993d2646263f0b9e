"""Passes of a head, as the drafter asks for them: of just a level's rows, or padded, recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.eagle.served import HeadInputs, HeadRows, LevelInputs, ServedHead
from cast_kernels.graphs import Graph, capture_all
from cast_kernels.staging import Field
from cast_kernels.tree_attention.fixed import FixedBatch, Size
from cast_kernels.tree_attention.paged import WORD_BITS

_PAGE: Final = 1  # slots of the target and scratch slots follow each other in no order
_WORDS: Final = 4  # nodes of one tree that steps in a bucket may have run, in words of 64


def level_size(rows: int, max_sequences: int, max_length: int) -> Size:
    """Room for levels of so many rows, of at most `max_sequences` sequences of `max_length`
    tokens."""
    return Size(
        rows=rows,
        longest=rows,
        sequences=min(rows, max_sequences),
        pages=max_length + _WORDS * WORD_BITS,
        words=_WORDS,
    )


@dataclass(frozen=True, slots=True)
class Level:
    """Rows, the slots of the states before them, the rows whose followers are wanted (None: all),
    and the slots that keep the states behind those."""

    rows: HeadRows
    before_N: NDArray[np.int64]
    wanted_R: NDArray[np.int64] | None
    keep_R: NDArray[np.int64]


class HeadPasses(Protocol):
    """`buckets` are the numbers of rows that passes are padded to, if they are."""

    buckets: tuple[int, ...]

    def run(self, level: Level) -> Tensor:
        """Logits of what follows the wanted rows, float32 [R, V]; to be read before the next."""
        ...


class HostPasses(HeadPasses):
    """Tensors of just the level's rows."""

    buckets = ()

    def __init__(self, head: ServedHead) -> None:
        self._head = head

    def run(self, level: Level) -> Tensor:
        head, wanted_R = self._head, level.wanted_R
        return head.level(
            LevelInputs(
                head.inputs(level.rows),
                head.to_device(level.before_N),
                None if wanted_R is None else head.to_device(wanted_R),
                head.to_device(level.keep_R),
            )
        )


@dataclass(frozen=True, slots=True)
class _Bucket:
    size: Size
    graph: Graph[Tensor]


class DevicePasses(HeadPasses):
    """For a backend that reads fixed arrays. `buckets`: numbers of rows, rising, that levels are
    padded to; of at most `max_sequences` sequences of `max_length` tokens."""

    def __init__(
        self,
        head: ServedHead,
        buckets: Sequence[int] = (),
        max_sequences: int = 1,
        max_length: int = 1,
    ) -> None:
        self.buckets = tuple(buckets)
        self._head = head
        most = max(self.buckets, default=1)
        largest = level_size(most, max_sequences, max_length)
        head.reserve(max_length)  # a table that grew later would not be the recorded one
        self._buffers = LevelBuffers(head, largest, most)
        self._buckets = [self._make_bucket(largest.bucket(rows)) for rows in self.buckets]

    def capture(self, show_progress: bool = True) -> None:
        """Records a graph for each bucket, on a CUDA device, before the first pass."""
        none = np.empty(0, np.int64)
        self._buffers.send(Level(HeadRows(none, none, none, []), none, none, none))
        graphs = [bucket.graph for bucket in self._buckets]
        if not capture_all(graphs, "the drafter's levels", show_progress):
            self._buckets, self.buckets = [], ()

    def run(self, level: Level) -> Tensor:
        size = Size.of(level.rows.sequences, _PAGE)
        for bucket in self._buckets:
            if bucket.size.holds(size):
                self._buffers.send(level)
                return bucket.graph()[: len(level.keep_R)]
        self._head.reserve(int(level.rows.positions_N.max()) + 1)
        buffers = LevelBuffers(self._head, size, len(level.keep_R))
        buffers.send(level)
        return self._head.level(buffers.inputs(size))

    def _make_bucket(self, size: Size) -> _Bucket:
        inputs = self._buffers.inputs(size)
        return _Bucket(size, Graph(lambda: _run(self._head, inputs)))


class LevelBuffers:
    """Memory for levels up to `size`, with at most `wanted` rows whose followers are wanted."""

    def __init__(self, head: ServedHead, size: Size, wanted: int) -> None:
        by_row, by_wanted = Field((size.rows,), torch.int64), Field((wanted,), torch.int64)
        fields = dict.fromkeys(("tokens", "positions", "slots", "before"), by_row)
        fields |= dict.fromkeys(("wanted", "keep"), by_wanted)
        self._wanted = wanted
        self._fixed = FixedBatch(size, _PAGE, head.device, fields)

    @property
    def page_BP(self) -> Tensor:
        """The slots that sequences see, one a page; who adds to them behind those that were sent
        may do so up to the last but one."""
        return self._fixed.batch(self._fixed.size).page_BP

    def inputs(self, size: Size) -> LevelInputs:
        """For levels padded to `size`, the whole or a bucket of it."""
        device, rows, wanted = self._fixed.device, size.rows, min(self._wanted, size.rows)
        return LevelInputs(
            HeadInputs(
                device["tokens"][:rows],
                device["positions"][:rows],
                device["slots"][:rows],
                self._fixed.batch(size),
            ),
            before_N=device["before"][:rows],
            wanted_R=device["wanted"][:wanted],
            keep_R=device["keep"][:wanted],
        )

    def send(self, level: Level) -> None:
        """Writes a level that fits; padding is written nowhere, or to the state of nobody."""
        self._fixed.wait()
        wanted_R = level.wanted_R
        if wanted_R is None:
            wanted_R = np.arange(len(level.keep_R))
        for name, array, padding in (
            ("tokens", level.rows.tokens_N, 0),
            ("positions", level.rows.positions_N, 0),
            ("slots", level.rows.slots_N, -1),
            ("before", level.before_N, -1),
            ("wanted", wanted_R, 0),
            ("keep", level.keep_R, -1),
        ):
            host = self._fixed.host[name]
            host[: len(array)], host[len(array) :] = array, padding
        self._fixed.send(level.rows.sequences)


@torch.inference_mode()
def _run(head: ServedHead, inputs: LevelInputs) -> Tensor:
    return head.level(inputs)


def make_passes(head: ServedHead) -> HeadPasses:
    return DevicePasses(head) if head.backend.is_static else HostPasses(head)
