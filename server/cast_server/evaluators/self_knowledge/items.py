"""From records to items: nothing is computed here but what the indicators need."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cast_server.evaluators.base import Record, Unit
from cast_server.evaluators.self_knowledge.cases import Case
from cast_server.evaluators.self_knowledge.results import (
    Indicator,
    SelfKnowledgeItem,
    Verification,
)
from cast_server.evaluators.self_knowledge.task import Shape


def item(case: Case, records: Mapping[Unit, Record]) -> SelfKnowledgeItem | None:
    """None if nothing of it is done."""
    written = [_record(records, phase, case.author) for phase in ("generate", "generate2")]
    checks = [_record(records, phase, case.index) for phase in ("verify", "verify2")]
    if not any((*written, *checks)):
        return None
    first = checks[0]
    text, text2 = (
        (found or check or {}).get("text") for found, check in zip(written, checks, strict=True)
    )
    asked = first["asked"] if first else None
    is_dual = case.task.shape == Shape.DUAL
    return SelfKnowledgeItem(
        index=case.index,
        task=case.task_id,
        arm=case.arm,
        number=case.number,
        asked=asked,
        prompt=written[0]["prompt"] if written[0] else None,
        prompt2=written[1]["prompt"] if written[1] else None,
        text=text,
        text2=text2 if is_dual else None,
        truncated=any(found and found["finish_reason"] == "length" for found in written),
        answer_in_text=_stands_in(case.question.wording, text) if asked else False,
        verifications=[Verification(**_verification(check)) for check in checks if check],
        **indicators(case.task.shape, asked, checks),
    )


def indicators(
    shape: Shape, asked: str | None, checks: list[Record | None]
) -> dict[str, Indicator]:
    """A missing answer or truth leaves None whatever needs it."""
    needed = checks[:1] if shape == Shape.SINGLE else checks
    answers = [check["parsed"] if check else None for check in needed]
    truths = [check["truth"] if check else None for check in needed]
    if shape == Shape.SINGLE:
        paper, compliance = _same(asked, answers[0]), _same(asked, truths[0])
    else:
        paper, compliance = _same(*answers), _same(*truths)
    pairs = [_same(*pair) for pair in zip(answers, truths, strict=True)]
    accuracy = None if None in pairs else _indicator(all(pairs))
    is_told = all(check is not None for check in needed)
    return {
        "paper_score": paper,
        "gen_compliance": compliance,
        "verify_accuracy": accuracy,
        "verify_given_compliant": accuracy if compliance else None,
        "unparsed": _indicator(None in answers) if is_told else None,
    }


def _same(one: str | None, other: str | None) -> Indicator:
    return None if one is None or other is None else _indicator(one == other)


def _indicator(holds: bool) -> Indicator:
    return float(holds)


def _record(records: Mapping[Unit, Record], phase: str, index: int | None) -> Record | None:
    unit = None if index is None else Unit(phase, index)
    return records[unit] if unit is not None and unit in records else None


def _verification(check: Record) -> dict[str, object]:
    return {name: check[name] for name in Verification.model_fields}


def _stands_in(wording: str, text: str | None) -> bool:
    if not wording or text is None:
        return False
    return bool(re.search(rf"(?<!\w){re.escape(wording)}(?!\w)", text, re.IGNORECASE))
