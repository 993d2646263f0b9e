"""Two texts of the model, the second meant to have the answer of the first, whatever that is."""

from __future__ import annotations

from random import Random

from cast_server.evaluators.self_knowledge.task import Presented, Question, Shape, Task


class Dual(Task):
    """A task twice. Its foreign texts have the answer in common."""

    shape = Shape.DUAL

    def __init__(self, single: Task) -> None:
        self._single = single

    def question(self, rng: Random) -> Question:
        return self._single.question(rng)

    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        return self._single.foreign(question, rng)

    def parse(self, answer: str) -> str | None:
        return self._single.parse(answer)

    def truth(self, text: str, question: Question) -> str:
        return self._single.truth(text, question)

    def present(self, text: str, question: Question) -> Presented:
        return Presented(self._single.present(text, question).text, None)
