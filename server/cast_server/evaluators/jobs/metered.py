"""A subject that counts the tokens which are asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from torch import Tensor

from cast_server.evaluators.jobs.job import JobFailure
from cast_server.evaluators.subject import (
    Generation,
    Initialisation,
    Layer,
    Message,
    Reading,
    Subject,
    Written,
)
from cast_server.evaluators.subjects.wrapped import WrappedSubject


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


class MeteredSubject(WrappedSubject):
    """Notes in `meter` what everything takes."""

    def __init__(self, subject: Subject, meter: Meter) -> None:
        super().__init__(subject)
        self._meter = meter

    async def read(self, token_ids: Sequence[int], layers: Sequence[Layer] = ()) -> Reading:
        self._meter.take(len(token_ids))
        return await super().read(token_ids, layers)

    async def write(self, messages: Sequence[Message], how: Generation) -> Written:
        self._meter.check(1)
        written = await super().write(messages, how)
        self._meter.tokens += written.num_prompt_tokens + written.num_tokens
        return written

    async def overlaps(self, token_ids: Sequence[int], depth: int) -> Tensor:
        self._meter.take(len(token_ids))
        return await super().overlaps(token_ids, depth)

    @asynccontextmanager
    async def untrained(self, how: Initialisation) -> AsyncIterator[Subject]:
        async with super().untrained(how) as twin:
            yield MeteredSubject(twin, self._meter)
