"""A subject that counts the tokens which are asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from torch import Tensor

from cast_server.evaluators.jobs.job import JobFailure
from cast_server.evaluators.subject import (
    Capability,
    Generation,
    Initialisation,
    Layer,
    Message,
    Reading,
    Subject,
    Written,
)


@dataclass(slots=True)
class Meter:
    """Tokens of one evaluation: read, written and in prompts."""

    limit: int
    tokens: int = 0

    def check(self, coming: int) -> None:
        """Raises `JobFailure` if `coming` more are too many."""
        if self.tokens + coming > self.limit:
            raise JobFailure(
                "max_tokens_exceeded", f"The evaluation needs more than {self.limit} tokens."
            )

    def take(self, coming: int) -> None:
        """Checks, and counts them."""
        self.check(coming)
        self.tokens += coming


class MeteredSubject:
    """Passes everything on to `subject`, and notes in `meter` what that takes."""

    def __init__(self, subject: Subject, meter: Meter) -> None:
        self._subject = subject
        self._meter = meter

    @property
    def name(self) -> str:
        return self._subject.name

    @property
    def fingerprint(self) -> Mapping[str, str]:
        return self._subject.fingerprint

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._subject.capabilities

    @property
    def num_layers(self) -> int:
        return self._subject.num_layers

    @property
    def hidden_size(self) -> int:
        return self._subject.hidden_size

    @property
    def max_length(self) -> int:
        return self._subject.max_length

    def tokenize(self, text: str) -> list[int]:
        return self._subject.tokenize(text)

    async def read(self, token_ids: Sequence[int], layers: Sequence[Layer] = ()) -> Reading:
        self._meter.take(len(token_ids))
        return await self._subject.read(token_ids, layers)

    async def write(self, messages: Sequence[Message], how: Generation) -> Written:
        self._meter.check(1)
        written = await self._subject.write(messages, how)
        self._meter.tokens += written.num_prompt_tokens + written.num_tokens
        return written

    async def unembedding(self, token_ids: Sequence[int]) -> Tensor:
        return await self._subject.unembedding(token_ids)

    async def overlaps(self, token_ids: Sequence[int], depth: int) -> Tensor:
        self._meter.take(len(token_ids))
        return await self._subject.overlaps(token_ids, depth)

    @asynccontextmanager
    async def untrained(self, how: Initialisation) -> AsyncIterator[Subject]:
        async with self._subject.untrained(how) as twin:
            yield MeteredSubject(twin, self._meter)
