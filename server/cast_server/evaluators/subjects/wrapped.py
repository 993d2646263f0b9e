"""A subject that stands before another one, and differs from it in a few ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from torch import Tensor

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


class WrappedSubject(Subject):
    """Passes everything on."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

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
        return await self._subject.read(token_ids, layers)

    async def write(self, messages: Sequence[Message], how: Generation) -> Written:
        return await self._subject.write(messages, how)

    async def unembedding(self, token_ids: Sequence[int]) -> Tensor:
        return await self._subject.unembedding(token_ids)

    async def overlaps(self, token_ids: Sequence[int], depth: int) -> Tensor:
        return await self._subject.overlaps(token_ids, depth)

    def untrained(self, how: Initialisation) -> AbstractAsyncContextManager[Subject]:
        return self._subject.untrained(how)
