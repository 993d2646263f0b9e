"""Reads a text for what the model makes of it: hidden states and how likely each token was.

One pass through the paged path that serves, a chunk at a time, as a job between steps. Nothing is
padded, no cached prefix is used, and nothing of it stays in the cache.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.eagle.served_v1 import final_norm
from cast_kernels.tree_attention import SequenceRows
from cast_server.engine.background import BACKGROUND_ROWS
from cast_server.engine.block_pool import BlockPool
from cast_server.engine.core import EngineCore
from cast_server.engine.forward_batch import ForwardBatch
from cast_server.engine.model_runner import ModelRunner
from cast_server.engine.taps import Taps


@dataclass(frozen=True, slots=True)
class Wish:
    """What to keep of each position: the input of some layers (the number of layers is the output
    of the last), the final norm's output, the probabilities of some tokens to come next, and how
    likely each token was."""

    layers: tuple[int, ...] = ()
    is_normed: bool = False
    among: Tensor | None = None
    has_logprobs: bool = True

    @property
    def needs_logits(self) -> bool:
        return self.has_logprobs or self.among is not None


@dataclass(slots=True)
class Read:
    """float32 on the CPU. layers: [N, E] each, in the order of the wish. normed_NE and among_NI if
    they were wished for. logprobs_P: [N - 1], natural, of each token after the first, unless they
    were not."""

    layers: list[Tensor] = field(default_factory=list)
    normed_NE: Tensor | None = None
    among_NI: Tensor | None = None
    logprobs_P: Tensor = field(default_factory=lambda: torch.empty(0))


def read(core: EngineCore, token_ids: Sequence[int], wish: Wish) -> Generator[None, None, Read]:
    """A job for `AsyncEngine.work`. The text must fit into the cache."""
    pool = core.scheduler.pool
    num_blocks = pool.blocks_for(len(token_ids))
    while pool.num_free < num_blocks:
        yield  # others will give theirs back
    blocks = pool.allocate(num_blocks)
    chunks: list[_Chunk] = []
    try:
        slots_L = _slots(pool, blocks)[: len(token_ids)]
        for begin in range(0, len(token_ids), BACKGROUND_ROWS):
            yield
            end = min(begin + BACKGROUND_ROWS, len(token_ids))
            chunks.append(_read_chunk(core.runner, token_ids, slots_L[:end], begin, wish))
    finally:
        pool.release(blocks)
    return _joined(chunks, wish)


@dataclass(frozen=True, slots=True)
class _Chunk:
    layers: list[Tensor]
    normed_CE: Tensor | None
    among_CI: Tensor | None
    logprobs_C: Tensor | None


@torch.inference_mode()
def _read_chunk(
    runner: ModelRunner,
    token_ids: Sequence[int],
    slots_L: NDArray[np.int64],
    begin: int,
    wish: Wish,
) -> _Chunk:
    end = len(slots_L)
    with watching(runner.model, wish) as watched:
        num_logits = end - begin if wish.needs_logits else 0
        logits_CV = runner.forward(_batch(runner, token_ids[begin:end], slots_L, num_logits))
    layers, normed = watched()
    logprobs_CV = logits_CV.log_softmax(-1)
    following = torch.tensor(token_ids[begin + 1 : end + 1], device=runner.device)
    among = wish.among
    return _Chunk(
        [_kept(hidden, end - begin) for hidden in layers],
        None if normed is None else _kept(normed, end - begin),
        None if among is None else logprobs_CV[:, among.to(runner.device)].exp().cpu(),
        _of_tokens(logprobs_CV, following) if wish.has_logprobs else None,
    )


def _of_tokens(logprobs_CV: Tensor, following: Tensor) -> Tensor:
    known_CV = logprobs_CV[: len(following)]
    return known_CV.gather(1, following[:, None])[:, 0].cpu()


def _batch(
    runner: ModelRunner, token_ids: Sequence[int], slots_L: NDArray[np.int64], num_logits: int
) -> ForwardBatch:
    """The last tokens of a text whose other keys and values are there; the first `num_logits` are
    asked for theirs. Idle rows fill it up to what is best for the device."""
    num_rows, num_keys = len(token_ids), len(slots_L)
    num_idle = max(0, runner.min_rows - num_rows)
    rows = SequenceRows(slots_L, np.tri(num_rows, dtype=np.bool_), np.arange(num_rows))
    positions_N = np.concatenate(
        [np.arange(num_keys - num_rows, num_keys), np.zeros(num_idle, np.int64)]
    )
    return ForwardBatch(
        input_ids_N=torch.tensor([*token_ids, *[0] * num_idle], device=runner.device),
        position_ids_N=torch.from_numpy(positions_N).to(runner.device),
        slots_M=torch.from_numpy(slots_L[num_keys - num_rows :]).to(runner.device),
        logit_rows=torch.arange(num_logits, device=runner.device),
        plan=runner.backend.plan([rows], runner.device),
        kv_caches=runner.kv_caches,
        backend=runner.backend,
    )


@contextmanager
def watching(model: Any, wish: Wish) -> Iterator[Any]:
    """While it is open, hidden states are kept; the function it gives returns and drops them."""
    taps = Taps(model, wish.layers) if wish.layers else None
    normed: list[Tensor] = []
    handle = None
    if wish.is_normed:
        handle = final_norm(model).register_forward_hook(lambda *call: normed.append(call[-1]))

    def watched() -> tuple[list[Tensor], Tensor | None]:
        return taps.take() if taps is not None else [], normed.pop() if normed else None

    try:
        yield watched
    finally:
        if taps is not None:
            taps.remove()
        if handle is not None:
            handle.remove()


def _kept(hidden: Tensor, num_rows: int) -> Tensor:
    return hidden.reshape(-1, hidden.shape[-1])[:num_rows].float().cpu()


def _joined(chunks: Sequence[_Chunk], wish: Wish) -> Read:
    layers = [torch.cat(parts) for parts in zip(*(chunk.layers for chunk in chunks), strict=True)]
    normed = [chunk.normed_CE for chunk in chunks if chunk.normed_CE is not None]
    among = [chunk.among_CI for chunk in chunks if chunk.among_CI is not None]
    logprobs = [chunk.logprobs_C for chunk in chunks if chunk.logprobs_C is not None]
    return Read(
        layers if wish.layers else [],
        torch.cat(normed) if normed else None,
        torch.cat(among) if among else None,
        torch.cat(logprobs) if logprobs else torch.empty(0),
    )


def _slots(pool: BlockPool, blocks: Sequence[int]) -> NDArray[np.int64]:
    first_S = np.array(blocks, np.int64)[:, None] * pool.block_size
    return (first_S + np.arange(pool.block_size)).reshape(-1)
