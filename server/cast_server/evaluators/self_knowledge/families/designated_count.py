"""A text in which a given word occurs so many times."""

from __future__ import annotations

from random import Random

from cast_server.evaluators.self_knowledge import answers, filler
from cast_server.evaluators.self_knowledge.task import Question, Task
from cast_server.evaluators.self_knowledge.words import count_word


class DesignatedCount(Task):
    def question(self, rng: Random) -> Question:
        asked = str(rng.randint(2, 9))
        fields = {"word": rng.choice(filler.WORDS), "topic": rng.choice(filler.TOPICS)}
        return Question(asked, asked, fields)

    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        return filler.around(rng, question.fields["word"], int(question.asked)), question.asked

    def parse(self, answer: str) -> str | None:
        return answers.number(answer, ("times", "time", "occurrences", "occurrence"))

    def truth(self, text: str, question: Question) -> str:
        return str(count_word(text, question.fields["word"]))
