"""Prepositions of a text, and of the same text after its first sentence has moved to the end."""

from __future__ import annotations

from random import Random

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.self_knowledge import answers, filler
from cast_server.evaluators.self_knowledge.task import Presented, Question, Shape, Task
from cast_server.evaluators.self_knowledge.words import (
    PREPOSITIONS,
    count_prepositions,
    sentences,
)


class MoveSentence(Task):
    shape = Shape.TWIN

    def question(self, rng: Random) -> Question:
        fields = {"topic": rng.choice(filler.TOPICS), "prepositions": ", ".join(PREPOSITIONS)}
        return Question(fields=fields)

    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        text = filler.paragraph(rng, rng.randint(3, 6))
        return text, self.truth(text, question)

    def parse(self, answer: str) -> str | None:
        return answers.number(answer, ("prepositions", "preposition", "times", "time"))

    def truth(self, text: str, question: Question) -> str:
        del question
        return str(count_prepositions(text))

    def present(self, text: str, question: Question) -> Presented:
        del question
        if len(sentences(text)) < 2:
            raise Undefined("text_too_short")
        return Presented(text, None)

    def twin(self, text: str) -> str:
        first, *others = sentences(text)
        return " ".join([*others, first])
