"""An inequality that is true for all numbers, or one that is not."""

from __future__ import annotations

from random import Random

from cast_server.evaluators.self_knowledge import answers, inequalities
from cast_server.evaluators.self_knowledge.task import Question, Task


class Theorem(Task):
    def question(self, rng: Random) -> Question:
        asked = rng.choice(("true", "false"))
        wording = "always true" if asked == "true" else "sometimes false"
        return Question(asked, wording)

    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        """(x - k)^2 + rest >= 0, multiplied out: true just if rest is not negative."""
        root, size = rng.randint(1, 5), rng.randint(1, 9)
        rest = size if question.asked == "true" else -size
        text = f"x^2 + {root * root + rest + 9} >= {2 * root}x + 9 for all real numbers x"
        return text, question.asked

    def parse(self, answer: str) -> str | None:
        return answers.verdict(answer)

    def truth(self, text: str, question: Question) -> str:
        del question
        return inequalities.verdict(text)
