"""Passes of the target and of the drafter, made as steps make them. Each call returns seconds."""

from __future__ import annotations

import random
import time
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from cast_drafters.base import DraftContext, Drafter, DraftLimits
from cast_drafters.eagle.drafter import EagleDrafter
from cast_drafters.eagle.passes import Level
from cast_drafters.eagle.served import HeadRows, ServedHead
from cast_drafters.tree import DraftTree, tree_from_arrays
from cast_kernels.tree_attention import SequenceRows
from cast_profiler.grid import GridPoint
from cast_server.engine.core import EngineCore
from cast_server.engine.scheduler import Scheduled
from cast_server.profiling.scratch import lent_blocks, random_normal, scratch_sequences

_CHILDREN: Final = 2  # of each node: neither a chain nor a star
_BEST: Final = 4  # candidates that are read off each row of a level
_CHUNK: Final = 256


class VerifyPass:
    """A step's verification: each sequence brings its last token and a tree behind it.

    Timed are laying out the batch and the target's pass, up to the logits of all rows, and with
    what the drafter keeps of the hidden states.
    """

    def __init__(self, core: EngineCore, point: GridPoint) -> None:
        self._core, self._point = core, point
        self._sequences = scratch_sequences(core, point)
        vocab_size = core.runner.vocab_size
        self._trees = [_tree(rows - 1, vocab_size) for rows in point.rows_by_sequence]

    @torch.inference_mode()
    def __call__(self) -> float:
        core = self._core
        with lent_blocks(core, self._sequences, self._point):
            scheduled = [Scheduled(sequence, 1) for sequence in self._sequences]
            begin = time.perf_counter()
            core.target.probe(scheduled, self._trees)
            return time.perf_counter() - begin


class HeadLevel:
    """A level of an EAGLE head: some nodes of each sequence, siblings behind its context.

    Timed are laying out the rows, the head's pass, its log-probabilities and the best of them on
    the host. Rows go to the head's scratch slots; `fill_head` fills those of the context.
    """

    def __init__(self, core: EngineCore, drafter: EagleDrafter, point: GridPoint) -> None:
        self._head, self._passes, self._point = drafter.head, drafter.passes, point
        sequences = scratch_sequences(core, point)
        with lent_blocks(core, sequences, point):
            self._slots = [sequence.slots(0, point.context).copy() for sequence in sequences]
        self._tokens_N = np.arange(point.rows) % core.runner.vocab_size
        last = [slots[-1] for slots in self._slots]
        self._before_N = np.repeat(last, point.rows_by_sequence)

    @torch.inference_mode()
    def __call__(self) -> float:
        head, point = self._head, self._point
        begin = time.perf_counter()
        scratch_N = head.num_slots + np.arange(point.rows)
        sequences: list[SequenceRows] = []
        first = 0
        for slots_L, rows in zip(self._slots, point.rows_by_sequence, strict=True):
            keys_L = np.concatenate([slots_L[1:], scratch_N[first : first + rows]])
            depths_C = np.ones(rows, np.int64)
            sequences.append(SequenceRows(keys_L, np.eye(rows, dtype=np.bool_), depths_C))
            first += rows
        positions_N = np.full(point.rows, point.context)
        rows_N = HeadRows(self._tokens_N, positions_N, scratch_N, sequences)
        logits_NV = self._passes.run(Level(rows_N, self._before_N, None, scratch_N))
        count = min(_BEST, len(head.draft_token_ids))
        log_q_NK, index_NK = head.backend.log_softmax_topk(logits_NV, count)
        index_NK.cpu().numpy()
        log_q_NK.exp().tolist()
        return time.perf_counter() - begin


class DraftModelLevel:
    """A level of a draft model: it feeds one token of one sequence after the other.

    Timed is its `propose` for one level, host work and all. Call `close` in the end.
    """

    def __init__(self, core: EngineCore, drafter: Drafter, point: GridPoint) -> None:
        assert point.rows == point.sequences, point
        self._drafter = drafter
        limits = DraftLimits(max_nodes=1, max_depth=1, max_width=1)
        self._contexts = [
            DraftContext(
                f"{one.id}-of-{point.sequences}-{point.context}", one.token_ids, limits, 0, 0
            )
            for one in scratch_sequences(core, point)
        ]
        for one in self._contexts:
            drafter.begin(one.request_id, one.token_ids)

    def __call__(self) -> float:
        begin = time.perf_counter()
        self._drafter.propose(self._contexts)
        return time.perf_counter() - begin

    def close(self) -> None:
        for one in self._contexts:
            self._drafter.release(one.request_id)


@torch.inference_mode()
def fill_head(core: EngineCore, head: ServedHead, slots_M: NDArray[np.int64]) -> None:
    """Keys and values of a head in the target's slots, made of random tokens and hidden states."""
    for begin in range(0, len(slots_M), _CHUNK):
        slots_R = slots_M[begin : begin + _CHUNK]
        count = len(slots_R)
        tokens_R, positions_R = np.arange(count) % core.runner.vocab_size, np.arange(count)
        hidden_RH = random_normal((count, head.config.hidden_size), core.runner.device)
        head.keep(head.to_device(slots_R), hidden_RH)
        head.remember(HeadRows(tokens_R, positions_R, slots_R, ()), slots_R)


def _tree(num_nodes: int, vocab_size: int) -> DraftTree:
    chosen = random.Random(num_nodes)
    tokens = chosen.choices(range(vocab_size), k=num_nodes)
    parents = [(node - _CHILDREN) // _CHILDREN for node in range(num_nodes)]
    tree = tree_from_arrays(tokens, parents, [0.0] * num_nodes)
    assert len(tree) == num_nodes
    return tree
