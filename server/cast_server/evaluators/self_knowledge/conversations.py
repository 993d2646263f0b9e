"""What the model is shown. A verifying run knows nothing but the text, unless its arm says so."""

from __future__ import annotations

from collections.abc import Sequence

from cast_server.evaluators.self_knowledge.cases import Case
from cast_server.evaluators.self_knowledge.filler import paragraph
from cast_server.evaluators.self_knowledge.params import Arm
from cast_server.evaluators.self_knowledge.prompts import fill


def writing(case: Case) -> str:
    question = case.question
    return fill(case.prompts.generate, {**question.fields, "answer": question.wording})


def rewriting(case: Case, text: str) -> str:
    assert case.prompts.generate2 is not None
    return fill(case.prompts.generate2, {**case.question.fields, "text": text})


def verifying(case: Case, presented: str, written: str) -> list[dict[str, str]]:
    """presented: what is asked about; written: what the model answered to `writing`."""
    ask = fill(case.prompts.verify, {**case.question.fields, "text": presented})
    return said(*_context(case, written), ask) if case.is_in_context else said(ask)


def said(*turns: str) -> list[dict[str, str]]:
    """The user's and the assistant's in turns."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]


def _context(case: Case, written: str) -> Sequence[str]:
    shown = (writing(case), written)
    if case.arm == Arm.IN_CONTEXT:
        return shown
    noise = paragraph(case.rng("noise"), 4)
    return (*shown, f"Please repeat the following text.\n\n{noise}", noise)
