"""One ragged batch: the rows of all sequences of a step, side by side, whatever their trees."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.tree import DraftTree
from cast_kernels.backend import Backend
from cast_kernels.tree_attention import SequenceRows
from cast_server.engine.scheduler import Scheduled


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """Arguments of one target pass over N rows, of which the last may be idle.

    slots_M: where the keys and values of the M rows that are not idle go.
    logit_rows: the rows whose logits are wanted: in order of sequence and node those that tokens
    are chosen at, then those that prompts are read from.
    plan: the backend's, of the rows that are not idle. kv_caches: one [S, 2, K, D] a layer.
    """

    input_ids_N: Tensor
    position_ids_N: Tensor
    slots_M: Tensor
    logit_rows: Tensor
    plan: Any
    kv_caches: tuple[Tensor, ...]
    backend: Backend


@dataclass(frozen=True, slots=True)
class StepRows:
    """The rows of a step as the host knows them; none of them idle."""

    token_ids: list[int]
    positions_N: NDArray[np.int64]
    slots_N: NDArray[np.int64]
    sequences: list[SequenceRows]
    logit_rows: NDArray[np.int64]


def lay_out(scheduled: Seq[Scheduled], trees: Seq[DraftTree]) -> StepRows:
    """Each sequence brings its pending tokens, then the nodes of its tree behind the last of them.

    The blocks of all rows must be reserved. Row r of a sequence is written to the slot of position
    num_computed + r, wherever in the tree it is.
    """
    token_ids: list[int] = []
    positions: list[NDArray[np.int64]] = []
    slots: list[NDArray[np.int64]] = []
    rows: list[SequenceRows] = []
    logit_rows: list[NDArray[np.int64]] = []
    read_rows: list[NDArray[np.int64]] = []
    num_rows = 0
    for one, tree in zip(scheduled, trees, strict=True):
        sequence, begin = one.sequence, one.sequence.num_computed
        last = begin + one.num_tokens
        end = last + len(tree)
        token_ids += sequence.token_ids[begin:last]
        token_ids += tree.token_ids_T.tolist()
        chain = np.arange(one.num_tokens)
        depths_R = np.concatenate([chain, one.num_tokens - 1 + tree.depths_T.astype(np.int64)])
        positions.append(begin + depths_R)
        slots.append(sequence.slots(begin, end))
        rows.append(SequenceRows(sequence.slots(0, end), _mask(one.num_tokens, tree), depths_R))
        if one.reaches_end:
            logit_rows.append(np.arange(num_rows + one.num_tokens - 1, num_rows + end - begin))
        read_rows.append(num_rows - begin + np.array(one.unread, np.int64))
        num_rows += end - begin
    none = np.empty(0, np.int64)
    return StepRows(
        token_ids,
        np.concatenate(positions),
        np.concatenate(slots),
        rows,
        np.concatenate([none, *logit_rows, *read_rows]),
    )


def build_forward_batch(
    rows: StepRows, kv_caches: tuple[Tensor, ...], backend: Backend, min_rows: int
) -> ForwardBatch:
    """The rows as tensors of just their number. Idle ones fill a step up to `min_rows`; they are
    not cached and attend to nothing."""
    num_idle = max(0, min_rows - len(rows.token_ids))
    positions_N = np.concatenate([rows.positions_N, np.zeros(num_idle, np.int64)])
    device = kv_caches[0].device
    return ForwardBatch(
        input_ids_N=torch.tensor(rows.token_ids + [0] * num_idle, device=device),
        position_ids_N=torch.from_numpy(positions_N).to(device),
        slots_M=torch.from_numpy(rows.slots_N).to(device),
        logit_rows=torch.from_numpy(rows.logit_rows).to(device),
        plan=backend.plan(rows.sequences, device),
        kv_caches=kv_caches,
        backend=backend,
    )


def _mask(num_tokens: int, tree: DraftTree) -> NDArray[np.bool_]:
    """A chain of `num_tokens` whose last token is the root of the tree, bool [R, R]."""
    if num_tokens == 1:
        return tree.ancestor_mask()
    num_rows = num_tokens + len(tree)
    mask_RR = np.tri(num_rows, dtype=np.bool_)
    mask_RR[num_tokens - 1 :, num_tokens - 1 :] = tree.ancestor_mask()
    return mask_RR
