"""A program of a little language that prints a given number."""

from __future__ import annotations

import re
from random import Random
from typing import Final

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.self_knowledge import answers, language
from cast_server.evaluators.self_knowledge.task import Question, Task

_FENCED: Final = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Code(Task):
    def question(self, rng: Random) -> Question:
        asked = str(rng.randint(2, 100))
        return Question(asked, asked)

    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        turns, step = rng.randint(2, 6), rng.randint(2, 9)
        start = int(question.asked) - turns * step
        lines = (f"n = {start}", f"for i in range({turns}):", f"    n = n + {step}", "print(n)")
        return "\n".join(lines), question.asked

    def parse(self, answer: str) -> str | None:
        return answers.number(answer)

    def truth(self, text: str, question: Question) -> str:
        """The last line printed, which must be a number."""
        del question
        programs = _FENCED.findall(text) or [text]
        if len(programs) > 1:
            raise Undefined("several_programs")
        printed = language.run(programs[0])
        if not printed or not re.fullmatch(r"-?\d+", printed[-1]):
            raise Undefined("prints_no_number")
        return printed[-1]
