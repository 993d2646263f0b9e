"""A text of so many words."""

from __future__ import annotations

from random import Random

from cast_server.evaluators.self_knowledge import answers, filler
from cast_server.evaluators.self_knowledge.task import Question, Task
from cast_server.evaluators.self_knowledge.words import count_words


class TotalCount(Task):
    def question(self, rng: Random) -> Question:
        asked = str(rng.randint(20, 100))
        return Question(asked, asked, {"topic": rng.choice(filler.TOPICS)})

    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        return filler.words(rng, int(question.asked)), question.asked

    def parse(self, answer: str) -> str | None:
        return answers.number(answer, ("words", "word"))

    def truth(self, text: str, question: Question) -> str:
        del question
        return str(count_words(text))
