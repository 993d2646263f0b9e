"""A subject that is no model: hidden states, losses and overlaps made of a seed and the tokens.

What it says of a position depends on the tokens up to there only, as with a causal model. Answers
of `write` are whatever a function makes of the conversation.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from cast_server.errors import ContextLengthError, RequestError
from cast_server.evaluators.base import Evaluator, Params, Record, Unit
from cast_server.evaluators.subject import (
    Capability,
    Generation,
    Initialisation,
    Layer,
    Message,
    Reading,
    Written,
)

VOCABULARY = 97
BEGIN = 0


class ScriptedSubject:
    """A word is a token. `readings` are the lengths of all texts read, `twins` what was entered."""

    def __init__(
        self,
        seed: int = 0,
        hidden_size: int = 24,
        num_layers: int = 3,
        max_length: int = 64,
        capabilities: frozenset[Capability] = frozenset(Capability),
        answer: Callable[[Sequence[Message]], str] = lambda messages: messages[-1]["content"],
    ) -> None:
        self.name = f"scripted-{seed}"
        self.fingerprint: Mapping[str, str] = {"weights": str(seed)}
        self.seed, self.hidden_size, self.num_layers = seed, hidden_size, num_layers
        self.max_length, self.capabilities, self._answer = max_length, capabilities, answer
        self.readings: list[int] = []
        self.twins: list[Initialisation] = []
        self.sink = 1.0  # what the first token is multiplied with, but behind the final norm
        self._embeddings_VE = self._random("embeddings", VOCABULARY, hidden_size)
        self._head_VE = self._random("head", VOCABULARY, hidden_size)

    def tokenize(self, text: str) -> list[int]:
        return [BEGIN, *(1 + zlib.crc32(w.encode()) % (VOCABULARY - 1) for w in text.split())]

    async def read(self, token_ids: Sequence[int], layers: Sequence[Layer] = ()) -> Reading:
        self._check(token_ids)
        await asyncio.sleep(0)
        self.readings.append(len(token_ids))
        hidden = {layer: self._hidden(token_ids, layer) for layer in layers}
        logprobs_NV = self._logits(token_ids).log_softmax(1)
        targets_P = torch.tensor(list(token_ids[1:]), dtype=torch.int64)
        return Reading(hidden, logprobs_NV[: len(targets_P)].gather(1, targets_P[:, None])[:, 0])

    async def write(self, messages: Sequence[Message], how: Generation) -> Written:
        await asyncio.sleep(0)
        words = self._answer(messages).split(" ")
        kept = words[: how.max_tokens]
        num_prompt = sum(len(self.tokenize(message["content"])) for message in messages)
        reason = "stop" if len(kept) == len(words) else "length"
        return Written(" ".join(kept), reason, num_prompt, len(kept))

    async def unembedding(self, token_ids: Sequence[int]) -> Tensor:
        return self._head_VE[list(token_ids)]

    async def overlaps(self, token_ids: Sequence[int], depth: int) -> Tensor:
        self._check(token_ids)
        await asyncio.sleep(0)
        p_NV = self._logits(token_ids).double().softmax(1)
        overlaps_KN = torch.full((depth, len(token_ids)), math.nan, dtype=torch.float64)
        for k in range(min(depth, len(token_ids) - 1)):
            noise_NV = self._random("head of drafts", len(token_ids), VOCABULARY).double()
            q_NV = (p_NV.log() + 0.3 * (k + 1) * noise_NV).softmax(1)
            found_N = torch.minimum(p_NV, q_NV).sum(1)
            overlaps_KN[k, : len(token_ids) - 1 - k] = found_N[k:-1]
        return overlaps_KN

    @asynccontextmanager
    async def untrained(self, how: Initialisation):
        self.twins.append(how)
        yield ScriptedSubject(
            1000 + how.seed + 100 * how.is_training + int(1e6 * (how.std or 0)),
            self.hidden_size,
            self.num_layers,
            self.max_length,
        )

    def _random(self, name: str, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {self.seed}".encode()))
        return torch.randn(*shape, generator=generator)

    def _hidden(self, token_ids: Sequence[int], layer: Layer) -> Tensor:
        raw_NE = self._embeddings_VE[list(token_ids)]
        past_NE = raw_NE.cumsum(0) / torch.arange(1, len(raw_NE) + 1)[:, None]
        depth = self.num_layers if layer == "last_normed" else layer
        mixed_NE = (raw_NE + depth * past_NE) @ self._random(
            f"layer {depth}", *[self.hidden_size] * 2
        )
        if layer == "last_normed":
            return mixed_NE / mixed_NE.square().mean(1, keepdim=True).sqrt()
        mixed_NE[0] *= self.sink
        return mixed_NE

    def _logits(self, token_ids: Sequence[int]) -> Tensor:
        return self._hidden(token_ids, "last_normed") @ self._head_VE.T / self.hidden_size**0.5

    def _check(self, token_ids: Sequence[int]) -> None:
        if not token_ids:
            raise RequestError("A text must have a token.")
        if len(token_ids) > self.max_length:
            raise ContextLengthError(f"{len(token_ids)} tokens are more than {self.max_length}.")


def evaluate(
    evaluator: Evaluator[Any],
    params: Params | Mapping[str, Any],
    inputs: Sequence[str],
    subject: ScriptedSubject,
) -> tuple[list[Any], Any]:
    """Items and summary, as a job makes them: phase by phase, units of a phase side by side, every
    record through JSON. A unit that raises RequestError leaves no record."""
    if not isinstance(params, Params):
        params = evaluator.params_type.model_validate(params)
    assert evaluator.requires(params) <= subject.capabilities
    records: dict[Unit, Record] = {}
    for units in by_phase(evaluator.plan(params, inputs)):
        records |= asyncio.run(_phase(evaluator, params, inputs, subject, units, records))
    items = evaluator.items(params, inputs, records)
    assert all(type(item) is evaluator.item_type for item in items)
    summary = evaluator.summarise(params, items)
    for result in (*items, summary):
        as_json(result)
    return items, summary


def by_phase(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Phases in their order; each comes once."""
    phases = [list(group) for _, group in itertools.groupby(units, key=lambda unit: unit.phase)]
    assert len({units[0].phase for units in phases}) == len(phases)
    yield from phases


def as_json(result: BaseModel) -> Any:
    """What a client gets; ValueError if it has a number that JSON has not."""
    return json.loads(json.dumps(result.model_dump(mode="json"), allow_nan=False))


async def _phase(
    evaluator: Evaluator[Any],
    params: Params,
    inputs: Sequence[str],
    subject: ScriptedSubject,
    units: Sequence[Unit],
    done: Mapping[Unit, Record],
) -> dict[Unit, Record]:
    async def one(unit: Unit) -> Record | None:
        try:
            record = await evaluator.run(unit, params, inputs, subject, done)
        except RequestError:
            return None
        kept: Record = json.loads(json.dumps(record, allow_nan=False))
        return kept

    found = await asyncio.gather(*map(one, units))
    return {unit: record for unit, record in zip(units, found, strict=True) if record is not None}
