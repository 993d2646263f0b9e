"""Subjects that follow a script: what they know of an answer, they compute in ways of their own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from cast_server.evaluators.base import Record, Unit
from cast_server.evaluators.self_knowledge.cases import Case, cases
from cast_server.evaluators.self_knowledge.conversations import writing
from cast_server.evaluators.self_knowledge.evaluator import SelfKnowledge
from cast_server.evaluators.self_knowledge.families.birthdays import _PEOPLE
from cast_server.evaluators.self_knowledge.params import SelfKnowledgeParams
from cast_server.evaluators.self_knowledge.results import SelfKnowledgeItem, SelfKnowledgeSummary
from cast_server.evaluators.self_knowledge.tasks import TASKS
from cast_server.evaluators.subject import Generation, Message, Written

PARAGRAPH = (
    "The boat left in the morning. It went by the island, and nobody looked at it. Later, with "
    "the wind from the north, it came back."
)
COUNTED = ("total_count", "designated_count", "maths", "code")


class Perfect:
    """Writes what is asked for and is right about every text."""

    def __init__(self, params: SelfKnowledgeParams) -> None:
        self.params = params
        self.seen: list[list[dict[str, str]]] = []
        self.asked_of: dict[str, str] = {}
        self._to_write = {writing(case): case for case in reversed(cases(params))}

    async def write(self, messages: Sequence[Message], how: Generation) -> Written:
        assert how.max_tokens > 0
        conversation = [dict(message) for message in messages]
        self.seen.append(conversation)
        text = self.reply(conversation[-1]["content"])
        return Written(text, "stop", len(str(conversation)), len(text))

    def reply(self, prompt: str) -> str:
        if case := self._to_write.get(prompt):
            text = self.compose(case)
            if not case.task_id.startswith("dual_"):
                self.asked_of[text] = case.question.asked
            return text
        for task, entry in TASKS.items():
            if entry.prompts.generate2 and (found := matched(entry.prompts.generate2, prompt)):
                return self.compose_like(task, found)
            if found := matched(entry.prompts.verify, prompt):
                return self.verify(task, found)
        raise AssertionError(prompt)

    def compose(self, case: Case) -> str:
        return made(case.task_id, case.question.asked, case.question.fields)

    def compose_like(self, task: str, found: Mapping[str, str]) -> str:
        return made(task, solved(task, found), found)

    def verify(self, task: str, found: Mapping[str, str]) -> str:
        return f"The answer is: **{solved(task, found)}**"


class Sloppy(Perfect):
    """Writes something else than asked, and knows what it is."""

    def compose(self, case: Case) -> str:
        return made(case.task_id, other(case.task_id, case.question.asked), case.question.fields)

    def compose_like(self, task: str, found: Mapping[str, str]) -> str:
        return made(task, other(task, solved(task, found)), found)


class Parrot(Sloppy):
    """Writes something else, and says what it was asked for, or always the same."""

    def verify(self, task: str, found: Mapping[str, str]) -> str:
        if task in COUNTED or task == "theorem":
            return self.asked_of.get(found["text"], "4321")
        return "4321"


class Mute(Perfect):
    """Will not say."""

    def verify(self, task: str, found: Mapping[str, str]) -> str:
        return "I would rather keep that to myself, thanks."


def matched(template: str, prompt: str) -> dict[str, str] | None:
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.*)", re.escape(template))
    found = re.fullmatch(pattern, prompt, re.DOTALL)
    return found.groupdict() if found else None


def other(task: str, asked: str) -> str:
    if asked in ("true", "false"):
        return "false" if asked == "true" else "true"
    return str(int(asked) + 7) if asked.isdigit() else asked


def made(task: str, answer: str, fields: Mapping[str, str]) -> str:
    """A text with that answer."""
    match task.removeprefix("dual_"):
        case "total_count":
            return " ".join(["well-known"] * int(answer)) + "."
        case "designated_count":
            return f"So, {fields['word'].upper()}; " * int(answer) + "and no more."
        case "maths":
            return f"Compute **{int(answer) - 3} + 3**."
        case "code":
            return f"```python\nn = {answer}\nwhile n < 0:\n    n += 1\nprint(n)\n```"
        case "theorem":
            return f"x^2 {'>=' if answer == 'true' else '<'} 0 for all real numbers x"
        case "facts":
            return f"The person of {answer}"
    return PARAGRAPH


def solved(task: str, found: Mapping[str, str]) -> str:
    """The right answer about a text, by other means than the evaluator's."""
    text = found["text"]
    match task.removeprefix("dual_"):
        case "total_count":
            return str(len(re.findall(r"\S+", text)))
        case "designated_count":
            return str(len(re.findall(rf"\b{found['word']}\b", text, re.IGNORECASE)))
        case "maths":
            return str(eval(re.sub(r"[^-+*0-9 ]", "", text.replace("**", ""))))
        case "code":
            return python_output(text)[-1]
        case "theorem":
            return str(holds(text)).lower()
        case "facts":
            return dict(_PEOPLE).get(text) or text.removeprefix("The person of ")
        case "move_sentence":
            return str(len(re.findall(r"\b(at|by|from|in|of|on|under|with)\b", text)))
    return text.split()[int(found["position"]) - 1].strip(",.")


def holds(statement: str) -> bool:
    """Of x^2 >= 0, x^2 < 0 and x^2 + c >= bx + d: by the discriminant."""
    if found := re.match(r"x\^2 \+ (\d+) >= (\d+)x \+ (\d+)", statement):
        c, b, d = map(int, found.groups())
        return b * b <= 4 * (c - d)
    return ">=" in statement


def python_output(source: str) -> list[str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(re.sub(r"```\w*", "", source), {})
    return output.getvalue().splitlines()


def evaluated(
    params: SelfKnowledgeParams, subject: Any
) -> tuple[list[SelfKnowledgeItem], SelfKnowledgeSummary]:
    items = SelfKnowledge().items(params, [], records_of(params, subject))
    summary = SelfKnowledge().summarise(params, items)
    assert isinstance(summary, SelfKnowledgeSummary)
    return [item for item in items if isinstance(item, SelfKnowledgeItem)], summary


def records_of(params: SelfKnowledgeParams, subject: Any) -> dict[Unit, Record]:
    """Phase by phase; the units of one side by side, the last ones first."""

    async def run_all() -> dict[Unit, Record]:
        done: dict[Unit, Record] = {}
        for _, planned in groupby(SelfKnowledge().plan(params, []), key=lambda unit: unit.phase):
            units = list(planned)[::-1]
            runs = [SelfKnowledge().run(unit, params, [], subject, dict(done)) for unit in units]
            done |= dict(zip(units, await asyncio.gather(*runs), strict=True))
        return done

    return asyncio.run(run_all())
