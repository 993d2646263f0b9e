"""A `PagedBatch` at a fixed place of the device, into which one step after the other is laid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cast_kernels.staging import Field, Staging
from cast_kernels.tree_attention.paged import WORD_BITS, PagedBatch, pack
from cast_kernels.tree_attention.plan import SequenceRows


class Size(NamedTuple):
    """Room for N rows of B sequences with at most `longest` rows, P pages and W mask words each."""

    rows: int
    longest: int
    sequences: int
    pages: int
    words: int

    @classmethod
    def of(cls, rows: Sequence[SequenceRows], page_size: int) -> Size:
        """Just large enough."""
        columns = max([one.mask_RC.shape[1] for one in rows], default=0)
        keys = max([one.num_keys for one in rows], default=0)
        return cls(
            rows=sum(one.num_rows for one in rows),
            longest=max([one.num_rows for one in rows], default=0),
            sequences=len(rows),
            pages=max(1, -(-keys // page_size)),
            words=max(1, -(-columns // WORD_BITS)),
        )

    def holds(self, other: Size) -> bool:
        """Whether a step of that size can be padded to this one."""
        return all(there <= here for here, there in zip(self, other, strict=True))

    def bucket(self, rows: int) -> Size:
        """The part of this one that steps of so many rows are padded to."""
        return self._replace(rows=rows, longest=rows, sequences=min(rows, self.sequences))


class FixedBatch:
    """Memory for steps up to `size`. `more` are further fields that travel with them.

    Padding rows belong to no sequence, padding sequences have no rows. No window may be used where
    a sequence's tree has more keys than it has rows.
    """

    def __init__(
        self, size: Size, page_size: int, device: torch.device, more: Mapping[str, Field]
    ) -> None:
        self.size, self._page_size = size, page_size
        rows, _, sequences, pages, words = size
        fields = dict(more)
        fields["mask"] = Field((rows, words), torch.int64)
        fields["cu_rows"] = Field((sequences + 1,), torch.int32)
        fields["cu_keys"] = Field((sequences + 1,), torch.int32)
        fields["context"] = Field((sequences,), torch.int32)
        fields["depth"] = Field((max(1, rows),), torch.int32)
        fields["pages"] = Field((sequences * pages,), torch.int32)  # the last, as it is cut short
        self._staging = Staging(fields, device)
        self.host, self.device = self._staging.host, self._staging.device
        self._page_BP = torch.zeros((sequences, pages), dtype=torch.int32, device=device)

    def batch(self, size: Size) -> PagedBatch:
        """What attention reads in steps padded to `size`, the whole or a bucket of it."""
        return PagedBatch(
            cu_rows_B1=self.device["cu_rows"][: size.sequences + 1],
            cu_tree_B1=self.device["cu_keys"][: size.sequences + 1],
            context_B=self.device["context"][: size.sequences],
            page_BP=self._page_BP[: size.sequences],
            mask_NW=self.device["mask"][: size.rows],
            depth_T=self.device["depth"],
            page_size=self._page_size,
            max_rows=size.longest,
            max_context=size.pages * self._page_size,
        )

    def wait(self) -> None:
        """Before `host` is written to."""
        self._staging.wait()

    def send(self, rows: Sequence[SequenceRows]) -> None:
        """Lays the rows out and brings all fields to the device, without waiting for it."""
        fill_counts(self.host["cu_rows"], [one.num_rows for one in rows])
        fill_counts(self.host["cu_keys"], [one.mask_RC.shape[1] for one in rows])
        begin = 0
        for index, one in enumerate(rows):
            end = begin + one.num_rows
            self.host["context"][index] = one.num_keys - one.mask_RC.shape[1]
            self.host["mask"][begin:end] = pack(one.mask_RC, self.size.words)
            self.host["depth"][begin:end] = one.depths_C[-one.num_rows :]
            begin = end
        used = max([-(-one.num_keys // self._page_size) for one in rows], default=0)
        page_BP = self.host["pages"][: len(rows) * used].reshape(len(rows), used)
        for page_P, one in zip(page_BP, rows, strict=True):
            page = one.slots_L[:: self._page_size] // self._page_size
            page_P[: len(page)] = page
        self._staging.send(unused=4 * (self.size.sequences * self.size.pages - page_BP.size))
        packed = self.device["pages"][: page_BP.size].view(len(rows), used)
        self._page_BP[: len(rows), :used].copy_(packed)


def fill_counts(cu_B1: NDArray[np.int32], counts: Sequence[int]) -> None:
    """Running totals from 0; whatever comes behind the last count adds nothing."""
    cu_B1[1 : len(counts) + 1] = np.cumsum(counts)
    cu_B1[len(counts) + 1 :] = cu_B1[len(counts)]
