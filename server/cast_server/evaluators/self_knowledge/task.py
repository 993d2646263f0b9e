"""What a family of tasks is. A new one is a file in `families`, and an entry in `tasks.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import ClassVar


class Shape(Enum):
    """Which phases an item goes through, in this order."""

    SINGLE = ("generate", "verify")
    TWIN = ("generate", "verify", "verify2")  # the same question about an edited text
    DUAL = ("generate", "generate2", "verify", "verify2")  # and about a second text of the model


@dataclass(frozen=True, slots=True)
class Question:
    """What one item is about.

    asked: the answer that the text is to have, as `Task.parse` would put it; "" if it follows from
    the text. wording: the same as {answer} has it. fields: the prompts' other gaps.
    """

    asked: str = ""
    wording: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Presented:
    """A text as the verifier sees it. asked: its intended answer; None where two answers are
    compared with each other instead."""

    text: str
    asked: str | None


class Task(ABC):
    """One family. All answers are strings in one canonical form: "56", "1990-05-04", "true"."""

    shape: ClassVar[Shape] = Shape.SINGLE

    @abstractmethod
    def question(self, rng: Random) -> Question:
        """A new one: a function of the generator's state alone."""

    @abstractmethod
    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        """A text that nobody's model wrote, and its true answer."""

    @abstractmethod
    def parse(self, answer: str) -> str | None:
        """What a model's answer says; None if that cannot be told."""

    @abstractmethod
    def truth(self, text: str, question: Question) -> str:
        """The right answer about a text. Raises Undefined where there is no way to know."""

    def present(self, text: str, question: Question) -> Presented:
        """The text to ask about. Raises Undefined for one that it cannot be made of."""
        return Presented(text, question.asked)

    def twin(self, text: str) -> str:
        """Of a `TWIN`: the same text, edited so that its answer stays."""
        raise NotImplementedError
