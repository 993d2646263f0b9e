"""Self-knowledge: can a model answer questions that it has made up itself? (arXiv 2406.06140)"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel

from cast_server.errors import RequestError
from cast_server.evaluators.base import Evaluator, Record, Undefined, Unit
from cast_server.evaluators.self_knowledge.cases import Case, case, cases, units
from cast_server.evaluators.self_knowledge.conversations import (
    rewriting,
    said,
    verifying,
    writing,
)
from cast_server.evaluators.self_knowledge.items import item
from cast_server.evaluators.self_knowledge.params import SelfKnowledgeParams
from cast_server.evaluators.self_knowledge.results import (
    SelfKnowledgeItem,
    SelfKnowledgeSummary,
)
from cast_server.evaluators.self_knowledge.summary import summary
from cast_server.evaluators.self_knowledge.task import Presented, Shape
from cast_server.evaluators.subject import Capability, Subject


class SelfKnowledge(Evaluator[SelfKnowledgeParams]):
    """The model writes a text for an answer and, in a run that knows only the text, says what the
    answer is."""

    id: ClassVar[str] = "self_knowledge"
    version: ClassVar[str] = "1"
    title: ClassVar[str] = "Self-knowledge"
    description: ClassVar[str] = (
        "The model writes texts for given answers (a paragraph of 56 words, a sum that makes 12) "
        "and then, without knowing what was asked for, says what their answers are. Whether it "
        "wrote what was asked, whether it is right about it and whether it could be understood "
        "are told apart."
    )
    params_type: ClassVar[type[SelfKnowledgeParams]] = SelfKnowledgeParams
    item_type: ClassVar[type[BaseModel]] = SelfKnowledgeItem
    summary_type: ClassVar[type[BaseModel]] = SelfKnowledgeSummary
    metrics: ClassVar[tuple[str, ...]] = (
        "paper_score",
        "gen_compliance",
        "verify_accuracy",
        "verify_given_compliant",
        "unparsed",
    )

    def requires(self, params: SelfKnowledgeParams) -> frozenset[Capability]:
        del params
        return frozenset({Capability.GENERATION})

    def plan(self, params: SelfKnowledgeParams, inputs: Sequence[str]) -> list[Unit]:
        if inputs:
            raise RequestError(
                f"self_knowledge makes its own items and takes no texts, but got {len(inputs)}: "
                "leave `input` out.",
                param="input",
            )
        return units(params)

    async def run(
        self,
        unit: Unit,
        params: SelfKnowledgeParams,
        inputs: Sequence[str],
        subject: Subject,
        done: Mapping[Unit, Record],
    ) -> Record:
        del inputs
        one = case(params, unit.index)
        if unit.phase == "generate":
            return await _write(unit, one, writing(one), subject)
        if unit.phase == "generate2":
            text = str(done[Unit("generate", unit.index)]["text"])
            return await _write(unit, one, rewriting(one, text), subject)
        return await _verify(unit, one, _written(unit, one, done), subject)

    def items(
        self,
        params: SelfKnowledgeParams,
        inputs: Sequence[str],
        records: Mapping[Unit, Record],
    ) -> list[BaseModel]:
        del inputs
        return [made for one in cases(params) if (made := item(one, records)) is not None]

    def summarise(self, params: SelfKnowledgeParams, items: Sequence[BaseModel]) -> BaseModel:
        ours = [item for item in items if isinstance(item, SelfKnowledgeItem)]
        return summary(params, ours, self.version)


def _written(unit: Unit, one: Case, done: Mapping[Unit, Record]) -> tuple[str, str | None]:
    """The text to ask about, before any edit; and its answer, if it is a foreign one.

    The second foreign text of a dual task is another one of the same answer.
    """
    is_second = unit.phase == "verify2" and one.task.shape == Shape.DUAL
    if one.author is None:
        return one.task.foreign(one.question, one.rng("foreign2" if is_second else "foreign"))
    phase = "generate2" if is_second else "generate"
    return str(done[Unit(phase, one.author)]["text"]), None


async def _write(unit: Unit, one: Case, prompt: str, subject: Subject) -> Record:
    written = await subject.write(said(prompt), one.how(unit.phase))
    return {
        "prompt": prompt,
        "text": written.text.strip(),
        "finish_reason": written.finish_reason,
        "num_tokens": written.num_tokens,
    }


async def _verify(
    unit: Unit, one: Case, written: tuple[str, str | None], subject: Subject
) -> Record:
    text, foreign_answer = written
    presented = _presented(unit, one, text)
    truth, reason = await asyncio.to_thread(_truth, one, presented.text)
    if foreign_answer is not None:
        truth, reason = foreign_answer, None
    is_asked = presented.asked is not None
    messages = verifying(one, presented.text, text)
    answer = await subject.write(messages, one.how(unit.phase))
    return {
        "text": presented.text,
        "messages": messages,
        "raw": answer.text,
        "parsed": one.task.parse(answer.text),
        "asked": foreign_answer if is_asked and foreign_answer is not None else presented.asked,
        "truth": truth,
        "truth_reason": reason,
        "finish_reason": answer.finish_reason,
        "num_tokens": answer.num_tokens,
    }


def _presented(unit: Unit, one: Case, text: str) -> Presented:
    presented = one.task.present(text, one.question)
    if unit.phase == "verify2" and one.task.shape == Shape.TWIN:
        return Presented(one.task.twin(presented.text), presented.asked)
    return presented


def _truth(one: Case, text: str) -> tuple[str | None, str | None]:
    """Or why there is none. Computed aside: it may take some hundredths of a second."""
    try:
        return one.task.truth(text, one.question), None
    except Undefined as undefined:
        return None, undefined.reason
