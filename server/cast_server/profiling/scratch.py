"""Sequences that exist only to be timed, and the free blocks of the KV cache they are lent."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.policy import parse_policy
from cast_profiler.grid import GridPoint
from cast_server.engine.core import EngineCore
from cast_server.engine.detokenizer import TextStream
from cast_server.engine.request import Request, SamplingParams
from cast_server.engine.sequence import Sequence as ScratchSequence

_PARAMS = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)


def scratch_sequences(core: EngineCore, point: GridPoint) -> list[ScratchSequence]:
    """Of random tokens, the last of them pending behind `point.context` others. No blocks yet."""
    chosen = random.Random(point.context)
    return [
        ScratchSequence(
            Request(
                f"profile-{index}",
                tuple(chosen.choices(range(core.runner.vocab_size), k=point.context + 1)),
                _PARAMS,
                seed=0,
            ),
            parse_policy("off"),
            frozenset(),
            TextStream(core.tokenizer, _PARAMS),
        )
        for index in range(point.sequences)
    ]


@contextmanager
def lent_blocks(
    core: EngineCore, sequences: Sequence[ScratchSequence], point: GridPoint
) -> Iterator[None]:
    """The sequences have room for their rows, and their context counts as computed."""
    pool = core.scheduler.pool
    try:
        for sequence, rows in zip(sequences, point.rows_by_sequence, strict=True):
            sequence.reserve(pool, point.context + rows)
            sequence.num_computed = point.context
        yield
    finally:
        for sequence in reversed(sequences):  # so that the free blocks keep their order
            sequence.release(pool)


def fits(core: EngineCore, point: GridPoint) -> bool:
    """Whether steps of this engine can be so large, and its free blocks hold one."""
    limits, pool = core.scheduler.limits, core.scheduler.pool
    lengths = [point.context + rows for rows in point.rows_by_sequence]
    return (
        point.sequences <= min(point.rows, limits.max_num_seqs)
        and point.rows <= limits.max_batched_tokens
        and max(lengths) <= limits.max_model_len
        and sum(map(pool.blocks_for, lengths)) <= pool.num_free
    )


def fill_context(core: EngineCore, points: Sequence[GridPoint]) -> NDArray[np.int64]:
    """Random keys and values in all slots that the points use; returns the slots.

    Memory never written to is no memory: it is one page of zeros, which stays in the cache.
    """
    pool, runner = core.scheduler.pool, core.runner
    needed = max(
        sum(pool.blocks_for(point.context + rows) for rows in point.rows_by_sequence)
        for point in points
    )
    blocks = pool.allocate(needed)
    pool.release(blocks)
    first_slots = np.array(blocks, np.int64)[:, None] * pool.block_size
    slots_M: NDArray[np.int64] = (first_slots + np.arange(pool.block_size)).reshape(-1)
    _, _, *entry = runner.kv_cache_YS2KD.shape
    values_M2KD = random_normal((len(slots_M), *entry), runner.device).to(runner.dtype)
    for kv_cache_S2KD in runner.kv_caches:
        kv_cache_S2KD[torch.from_numpy(slots_M).to(runner.device)] = values_M2KD
    return slots_M


def random_normal(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Float32; leaves torch's own generator as it is."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=generator, device=device)
