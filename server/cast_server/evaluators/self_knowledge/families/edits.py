"""A text edited by the evaluator at one place, and then the question which word is there.

The answer follows from the edit, so compliance is 1 wherever the text is long enough.
"""

from __future__ import annotations

from abc import abstractmethod
from random import Random
from typing import ClassVar

from cast_server.evaluators.self_knowledge import answers, filler
from cast_server.evaluators.self_knowledge.task import Presented, Question, Task
from cast_server.evaluators.self_knowledge.words import nth_word


class WordEdit(Task):
    """The text with one word other than before. Subclasses say which.

    last_position: positions asked for are from 1 to this one."""

    last_position: ClassVar[int] = 8

    def question(self, rng: Random) -> Question:
        fields = {
            "topic": rng.choice(filler.TOPICS),
            "position": str(rng.randint(1, self.last_position)),
            "word": rng.choice(filler.WORDS),
        }
        return Question(fields=fields)

    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        text = filler.paragraph(rng, 3)
        return text, self.present(text, question).asked or ""

    def parse(self, answer: str) -> str | None:
        return answers.word(answer)

    def truth(self, text: str, question: Question) -> str:
        return nth_word(text, int(question.fields["position"]))

    def present(self, text: str, question: Question) -> Presented:
        position, word = int(question.fields["position"]), question.fields["word"]
        nth_word(text, position + 1)
        words = self.edit(text.split(), position - 1, word)
        return Presented(" ".join(words), self.intended(text, position, word))

    @abstractmethod
    def edit(self, words: list[str], place: int, word: str) -> list[str]:
        """place: of the position, counted from 0."""

    def intended(self, text: str, position: int, word: str) -> str:
        """What is at the position after the edit."""
        del text, position
        return word


class AddFirst(WordEdit):
    """A word in front of the text."""

    last_position = 1

    def edit(self, words: list[str], place: int, word: str) -> list[str]:
        del place
        return [word, *words]


class Delete(WordEdit):
    """One word less: the next one takes its place."""

    def edit(self, words: list[str], place: int, word: str) -> list[str]:
        del word
        return words[:place] + words[place + 1 :]

    def intended(self, text: str, position: int, word: str) -> str:
        del word
        return nth_word(text, position + 1)


class Change(WordEdit):
    """Another word in the place of one."""

    def edit(self, words: list[str], place: int, word: str) -> list[str]:
        return [*words[:place], word, *words[place + 1 :]]
