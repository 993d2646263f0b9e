"""Evaluators that look at one text at a time: one unit and one item a text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel

from cast_server.evaluators.base import Evaluator, Record, Undefined, Unit
from cast_server.evaluators.subject import Subject
from cast_server.evaluators.texts import TextItem, TextParams, require_texts, tokens_of

T = TypeVar("T", bound=TextParams)


class TextEvaluator(Evaluator[T]):
    """A subclass measures; its record is the rest of a `TextItem`'s fields."""

    item_type: ClassVar[type[TextItem]]

    @abstractmethod
    async def measure(
        self, token_ids: Sequence[int], params: T, subject: Subject
    ) -> Mapping[str, Any]:
        """Fields of the item, JSON. token_ids: at least one. Raises Undefined."""

    def plan(self, params: T, inputs: Sequence[str]) -> list[Unit]:  # noqa: ARG002
        require_texts(inputs)
        return [Unit("read", index) for index in range(len(inputs))]

    async def run(
        self,
        unit: Unit,
        params: T,
        inputs: Sequence[str],
        subject: Subject,
        done: Mapping[Unit, Record],  # noqa: ARG002
    ) -> Record:
        tokens = tokens_of(inputs, unit.index, params, subject)
        common = {"num_tokens": len(tokens.ids), "truncated": tokens.is_truncated}
        if not tokens.ids:
            return common | {"reason": "no_tokens"}
        try:
            found = await self.measure(tokens.ids, params, subject)
        except Undefined as why:
            return common | {"reason": why.reason}
        return {"reason": None} | common | dict(found)

    def items(
        self,
        params: T,  # noqa: ARG002
        inputs: Sequence[str],  # noqa: ARG002
        records: Mapping[Unit, Record],
    ) -> list[BaseModel]:
        return [
            self.item_type(
                index=unit.index, status="undefined" if record["reason"] else "ok", **record
            )
            for unit, record in sorted(records.items(), key=lambda pair: pair[0].index)
        ]
