"""A question of arithmetic with a given answer."""

from __future__ import annotations

from random import Random

from cast_server.evaluators.self_knowledge import answers, arithmetic
from cast_server.evaluators.self_knowledge.task import Question, Task


class Maths(Task):
    def question(self, rng: Random) -> Question:
        asked = str(rng.randint(2, 200))
        return Question(asked, asked)

    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        factor, other = rng.randint(2, 12), rng.randint(2, 12)
        rest = int(question.asked) - factor * other
        sign = "+" if rest >= 0 else "-"
        return f"What is {factor} * {other} {sign} {abs(rest)}?", question.asked

    def parse(self, answer: str) -> str | None:
        return answers.number(answer)

    def truth(self, text: str, question: Question) -> str:
        del question
        return arithmetic.answer(text)
