"""The rows of a step as arrays of fixed shape, which is what a captured graph can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_kernels.tree_attention.plan import SequenceRows

WORD_BITS = 64


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """B sequences, N rows of queries and T keys of trees in all; integers are int32.

    cu_rows_B1, cu_tree_B1: where a sequence's rows and tree keys begin. context_B: keys before the
    tree. page_BP: the pages of a sequence, in order of its keys. mask_NW: int64, bit c % 64 of word
    c // 64 is set where a row sees the tree's key c. depth_T: positions behind the context.
    A sequence's rows are the last of its tree keys. max_rows, max_context: limits that hold for
    every sequence of every step that uses these arrays; more than needed costs idle programs.
    """

    cu_rows_B1: Tensor
    cu_tree_B1: Tensor
    context_B: Tensor
    page_BP: Tensor
    mask_NW: Tensor
    depth_T: Tensor
    page_size: int
    max_rows: int
    max_context: int

    @property
    def size(self) -> int:
        return len(self.context_B)

    @classmethod
    def from_rows(
        cls, rows: Sequence[SequenceRows], page_size: int, device: torch.device | str
    ) -> PagedBatch:
        """The slots of every sequence must fill its pages from their first slot on."""
        trees = [one.mask_RC.shape[1] for one in rows]
        contexts = [one.num_keys - tree for one, tree in zip(rows, trees, strict=True)]
        num_rows = [one.num_rows for one in rows]
        words = max([-(-tree // WORD_BITS) for tree in trees], default=1)
        pages = max([-(-one.num_keys // page_size) for one in rows], default=0)
        page_BP = np.zeros((len(rows), pages), np.int32)
        for page_P, one in zip(page_BP, rows, strict=True):
            used = _pages(one.slots_L, page_size)
            page_P[: len(used)] = used

        def put(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            cu_rows_B1=put(np.cumsum([0, *num_rows], dtype=np.int32)),
            cu_tree_B1=put(np.cumsum([0, *trees], dtype=np.int32)),
            context_B=put(np.array(contexts, np.int32)),
            page_BP=put(page_BP),
            mask_NW=put(np.concatenate([_empty(words)] + [pack(r.mask_RC, words) for r in rows])),
            depth_T=put(np.concatenate([[], *(one.depths_C for one in rows)]).astype(np.int32)),
            page_size=page_size,
            max_rows=max(num_rows, default=0),
            max_context=max(contexts, default=0),
        )


def pack(mask_RC: NDArray[np.bool_], words: int) -> NDArray[np.int64]:
    """Rows of bits as words [R, W], the first bit lowest."""
    bits = np.zeros((len(mask_RC), words * WORD_BITS), np.bool_)
    bits[:, : mask_RC.shape[1]] = mask_RC
    return np.packbits(bits, axis=1, bitorder="little").view("<i8").astype(np.int64, copy=False)


def _empty(words: int) -> NDArray[np.int64]:
    return np.zeros((0, words), np.int64)


def _pages(slots_L: NDArray[np.int64], page_size: int) -> NDArray[np.int64]:
    pages = slots_L[::page_size] // page_size
    index = np.arange(len(slots_L))
    expected = pages[index // page_size] * page_size + index % page_size
    assert np.array_equal(slots_L, expected), "slots do not fill whole pages in order"
    return pages
