"""A model behind an engine, as evaluators see it. All of its work is background work."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.background import BACKGROUND_ROWS
from cast_server.engine.core import EngineCore
from cast_server.engine.reading import Read, Wish, read
from cast_server.engine.request import Request, SamplingParams
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
from cast_server.evaluators.subjects.drafting import DraftHead
from cast_server.evaluators.subjects.untrained import Nursery
from cast_server.openmp import aside


class ServedSubject(Subject):
    """`head`: directory of the EAGLE-3 head whose drafts are judged, if there is one."""

    def __init__(
        self, engine: AsyncEngine, fingerprint: Mapping[str, str], head: Path | None = None
    ) -> None:
        self._engine = engine
        self._fingerprint = fingerprint
        self._model: Any = engine.model
        self._head_directory = head
        self._head: DraftHead | None = None  # from when it is first needed: it may be large
        self._nursery = Nursery(engine)

    @property
    def name(self) -> str:
        return self._engine.model_name

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return self._fingerprint

    @property
    def capabilities(self) -> frozenset[Capability]:
        lacks = frozenset({Capability.DRAFT_HEAD} if self._head_directory is None else ())
        return frozenset(Capability) - lacks

    @property
    def num_layers(self) -> int:
        return int(self._model.config.get_text_config().num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        return int(self._model.config.get_text_config().hidden_size)

    @property
    def max_length(self) -> int:
        return self._engine.max_model_len

    def tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._engine.tokenizer(text)["input_ids"]
        return ids

    async def read(self, token_ids: Sequence[int], layers: Sequence[Layer] = ()) -> Reading:
        numbers = tuple(layer for layer in layers if layer != "last_normed")
        for number in numbers:
            if not 0 <= number <= self.num_layers:
                raise RequestError(f"The model has no layer {number}: 0 to {self.num_layers}.")
        done = await self._read(token_ids, Wish(numbers, "last_normed" in layers))
        hidden: dict[Layer, Tensor] = dict(zip(numbers, done.layers, strict=True))
        if done.normed_NE is not None:
            hidden["last_normed"] = done.normed_NE
        return Reading(hidden, done.logprobs_P)

    async def _read(self, token_ids: Sequence[int], wish: Wish) -> Read:
        check_length(self, token_ids)
        return await self._engine.work(lambda core: read(core, token_ids, wish))

    async def write(self, messages: Sequence[Message], how: Generation) -> Written:
        params = SamplingParams(
            max_tokens=how.max_tokens, temperature=how.temperature, top_p=how.top_p, stop=how.stop
        )
        prompt = await asyncio.to_thread(self._prompt, messages)
        name = f"evaluation-{uuid.uuid4().hex}"
        request = Request(name, prompt, params, how.seed, is_background=True)
        self._engine.check(request)
        text = ""
        async for output in self._engine.generate(request):
            text += output.text
            if output.error is not None:
                raise output.error
        reason = output.finish_reason or "stop"
        return Written(text, reason, output.num_prompt_tokens, output.num_output_tokens)

    def _prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Of a model without a chat template: the words alone."""
        tokenizer = self._engine.tokenizer
        if tokenizer.chat_template is None:
            words = "\n\n".join(message["content"] for message in messages)
            return tuple(tokenizer(words + "\n\n")["input_ids"])
        return tuple(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                return_dict=False,
            )
        )

    async def unembedding(self, token_ids: Sequence[int]) -> Tensor:
        ids = torch.tensor(token_ids)
        return await self._engine.work(lambda core: _output_rows(core, ids))

    async def overlaps(self, token_ids: Sequence[int], depth: int) -> Tensor:
        if self._head_directory is None:
            raise RequestError(f"{self.name} is served without an EAGLE-3 head.", "model")
        if self._head is None:
            self._head = await aside(DraftHead.load, self._head_directory, self._model)
        head = self._head
        wish = Wish(head.layer_ids, among=head.vocabulary_I)
        done = await self._read(token_ids, wish)
        return await aside(head.overlaps, token_ids, done, depth)

    @asynccontextmanager
    async def untrained(self, how: Initialisation) -> AsyncIterator[Subject]:
        async with self._nursery.twin(self, how) as twin:
            yield twin


@torch.inference_mode()
def _output_rows(core: EngineCore, ids: Tensor) -> Generator[None, None, Tensor]:
    """What the output layer, packed or not, makes of unit vectors: its rows, bias left out."""
    runner = core.runner
    head = runner.model.get_output_embeddings()
    size = runner.model.config.get_text_config().hidden_size
    zero = torch.zeros(1, size, device=runner.device, dtype=runner.dtype)
    ids = ids.to(runner.device)
    columns: list[Tensor] = []
    for unit in torch.eye(size, device=runner.device, dtype=runner.dtype).split(BACKGROUND_ROWS):
        columns.append((head(unit).float() - head(zero).float())[:, ids].cpu())
        yield
    return torch.cat(columns).T.contiguous()
