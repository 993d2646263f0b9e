"""The same architecture before training, for Diff-eRank (Wei et al., NeurIPS 2024).

A plain transformers model beside the engine, in float32; its passes are the engine's background
work.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache

from cast_drafters.draft_model import cache_argument
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.background import BACKGROUND_ROWS
from cast_server.engine.reading import Wish, watching
from cast_server.errors import RequestError
from cast_server.evaluators.subject import (
    Capability,
    Generation,
    Initialisation,
    Layer,
    Message,
    Reading,
    Subject,
    Written,
    check_length,
)
from cast_server.evaluators.subjects.wrapped import WrappedSubject
from cast_server.openmp import aside

_LINGER: Final = 30.0  # seconds that a twin is kept after its last use


class Nursery:
    """Makes untrained twins, one at a time, and keeps the last for a while."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._twin: UntrainedSubject | None = None
        self._users = 0
        self._is_free = asyncio.Event()

    @asynccontextmanager
    async def twin(self, parent: Subject, how: Initialisation) -> AsyncIterator[Subject]:
        """Waits until nobody uses a twin of another kind."""
        async with self._lock:
            while self._users and self._twin is not None and self._twin.how != how:
                self._is_free.clear()
                await self._is_free.wait()
            if self._twin is None or self._twin.how != how:
                self._twin = None  # before the next is made: they are large
                engine = self._engine
                model = await aside(make_untrained, engine.model, how, engine.seeding)
                self._twin = UntrainedSubject(self._engine, parent, model, how)
            self._users += 1
            twin = self._twin
        try:
            yield twin
        finally:
            self._users -= 1
            if not self._users:
                self._is_free.set()
                asyncio.get_running_loop().call_later(_LINGER, self._drop, twin)

    def _drop(self, twin: UntrainedSubject) -> None:
        if not self._users and self._twin is twin:
            self._twin = None


def make_untrained(model: Any, how: Initialisation, seeding: threading.Lock) -> Any:
    """A transformers model of the same configuration with random weights."""
    config = deepcopy(model.config)
    if how.std is not None:
        config.get_text_config().initializer_range = how.std
    with _seeded(how.seed, seeding):
        twin = type(model)._from_config(  # noqa: SLF001
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    return twin.train(how.is_training).to(model.device)


@contextmanager
def _seeded(seed: int, seeding: threading.Lock) -> Iterator[None]:
    """torch's random numbers are this seed's, and nobody else's, inside."""
    with seeding, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class UntrainedSubject(WrappedSubject):
    """Can be read, and nothing else."""

    def __init__(
        self, engine: AsyncEngine, parent: Subject, model: Any, how: Initialisation
    ) -> None:
        super().__init__(parent)
        self._engine = engine
        self._model = model
        self.how = how

    @property
    def name(self) -> str:
        return f"{super().name}-untrained-{self.how.seed}"

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return {**super().fingerprint, "weights": repr(self.how), "dtype": "float32"}

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.HIDDEN_STATES})

    async def read(self, token_ids: Sequence[int], layers: Sequence[Layer] = ()) -> Reading:
        check_length(self, token_ids)
        seeding = self._engine.seeding
        return await self._engine.work(
            lambda _: _read(self._model, token_ids, layers, self.how, seeding)
        )

    async def write(self, messages: Sequence[Message], how: Generation) -> Written:  # noqa: ARG002
        raise RequestError("An untrained model writes nothing.")

    async def unembedding(self, token_ids: Sequence[int]) -> Tensor:  # noqa: ARG002
        raise RequestError("An untrained model's output rows are random.")

    async def overlaps(self, token_ids: Sequence[int], depth: int) -> Tensor:  # noqa: ARG002
        raise RequestError("There is no draft head for an untrained model.")


@torch.inference_mode()
def _read(
    model: Any,
    token_ids: Sequence[int],
    layers: Sequence[Layer],
    how: Initialisation,
    seeding: threading.Lock,
) -> Generator[None, None, Reading]:
    """A chunk at a time; with dropout all at once, so that seed and text alone decide it."""
    numbers = tuple(layer for layer in layers if layer != "last_normed")
    wish = Wish(numbers, "last_normed" in layers)
    ids_N = torch.tensor(token_ids, device=model.device)
    cache = {cache_argument(model): DynamicCache(config=model.config)}
    chunks: list[dict[Layer, Tensor]] = []
    logprobs: list[Tensor] = []
    for ids_C in ids_N.split(len(token_ids) if how.is_training else BACKGROUND_ROWS):
        yield
        begin = sum(map(len, logprobs))
        noise = _seeded(how.seed, seeding) if how.is_training else nullcontext()
        with noise, watching(model, wish) as watched:
            logits_CV = model(ids_C[None], use_cache=True, **cache).logits[0].float()
        hidden, normed = watched()
        chunk: dict[Layer, Tensor] = dict(zip(numbers, hidden, strict=True))
        if normed is not None:
            chunk["last_normed"] = normed[0]
        chunks.append({layer: one.float().cpu() for layer, one in chunk.items()})
        following_C = ids_N[begin + 1 : begin + 1 + len(ids_C)]
        known_CV = logits_CV[: len(following_C)].log_softmax(-1)
        logprobs.append(known_CV.gather(1, following_C[:, None])[:, 0].cpu())
    hidden_of = {layer: torch.cat([chunk[layer] for chunk in chunks]) for layer in layers}
    return Reading(hidden_of, torch.cat(logprobs))
