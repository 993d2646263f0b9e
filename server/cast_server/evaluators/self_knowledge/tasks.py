"""The tasks by id, each with its prompts: all of them in one place, under one version.

Whoever changes a prompt counts up `PROMPTS_VERSION`. A new family is one file in `families` and one
entry here. A verifying prompt cannot have {answer}: the run must not know what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cast_server.evaluators.self_knowledge.families.birthdays import Birthdays
from cast_server.evaluators.self_knowledge.families.code import Code
from cast_server.evaluators.self_knowledge.families.designated_count import DesignatedCount
from cast_server.evaluators.self_knowledge.families.dual import Dual
from cast_server.evaluators.self_knowledge.families.edits import AddFirst, Change, Delete
from cast_server.evaluators.self_knowledge.families.maths import Maths
from cast_server.evaluators.self_knowledge.families.move_sentence import MoveSentence
from cast_server.evaluators.self_knowledge.families.theorem import Theorem
from cast_server.evaluators.self_knowledge.families.total_count import TotalCount
from cast_server.evaluators.self_knowledge.prompts import Prompts, gaps
from cast_server.evaluators.self_knowledge.task import Task

PROMPTS_VERSION: Final = "1"


@dataclass(frozen=True, slots=True)
class Entry:
    task: Task
    prompts: Prompts

    @property
    def asks(self) -> bool:
        """Whether the first prompt says what the answer is to be."""
        return "answer" in gaps(self.prompts.generate)


_PARAGRAPH: Final = "Write a paragraph of at least three sentences about {topic}."
_LANGUAGE: Final = (
    "Use only whole numbers, assignments, + - * // %, comparisons, if, else, while, for with "
    "range, and print. No functions, no text, no lists. Write only the program."
)
_COUNT_WORDS: Final = (
    "How many words are there in the following paragraph? Answer with the number only.\n\n{text}"
)
_COUNT_WORD: Final = (
    'How often does the word "{word}" occur in the following paragraph? Answer with the number '
    "only.\n\n{text}"
)
_SOLVE: Final = "Solve the following problem. End with: The answer is <number>.\n\n{text}"
_TRACE: Final = (
    "Which number does the following program print? If it prints several, say the last one. End "
    "with: The answer is <number>.\n\n{text}"
)
_WHICH_WORD: Final = (
    "Which is word number {position} of the following text, counted from its beginning? Answer "
    "with that word only.\n\n{text}"
)

TASKS: Final[Mapping[str, Entry]] = {
    "total_count": Entry(
        TotalCount(),
        Prompts(
            "Write a paragraph about {topic} with exactly {answer} words. Write only the "
            "paragraph.",
            _COUNT_WORDS,
        ),
    ),
    "designated_count": Entry(
        DesignatedCount(),
        Prompts(
            'Write a paragraph about {topic} in which the word "{word}" occurs exactly {answer} '
            "times. Write only the paragraph.",
            _COUNT_WORD,
        ),
    ),
    "facts": Entry(
        Birthdays(),
        Prompts(
            "Name a well-known person who was born on {answer}. Write only the name.",
            "When was {text} born? Answer with the full date: month, day and year.",
        ),
    ),
    "maths": Entry(
        Maths(),
        Prompts(
            "Write an arithmetic problem whose result is exactly {answer}: one expression to "
            "compute. Do not write the result.",
            _SOLVE,
        ),
    ),
    "theorem": Entry(
        Theorem(),
        Prompts(
            "Write an inequality about real numbers that is {answer}, on one line such as: x^2 + "
            "y^2 >= 2xy for all real numbers x and y. Do not say whether it is true.",
            "Is the following statement true or false? Answer with true or false only.\n\n{text}",
        ),
    ),
    "code": Entry(
        Code(), Prompts("Write a short Python program that prints {answer}. " + _LANGUAGE, _TRACE)
    ),
    "move_sentence": Entry(
        MoveSentence(),
        Prompts(
            _PARAGRAPH,
            "How many of the words of the following text are one of these: {prepositions}? Answer "
            "with the number only.\n\n{text}",
        ),
    ),
    "add_first_word": Entry(AddFirst(), Prompts(_PARAGRAPH, _WHICH_WORD)),
    "delete_word": Entry(Delete(), Prompts(_PARAGRAPH, _WHICH_WORD)),
    "change_word": Entry(Change(), Prompts(_PARAGRAPH, _WHICH_WORD)),
    "dual_total_count": Entry(
        Dual(TotalCount()),
        Prompts(
            "Write a paragraph about {topic}.",
            _COUNT_WORDS,
            "Write another paragraph with exactly as many words as the following one has. Write "
            "only the paragraph.\n\n{text}",
        ),
    ),
    "dual_designated_count": Entry(
        Dual(DesignatedCount()),
        Prompts(
            'Write a paragraph about {topic} that uses the word "{word}" several times.',
            _COUNT_WORD,
            'Write another paragraph in which the word "{word}" occurs exactly as often as in the '
            "following one. Write only the paragraph.\n\n{text}",
        ),
    ),
    "dual_maths": Entry(
        Dual(Maths()),
        Prompts(
            "Write an arithmetic problem: one expression to compute. Do not write the result.",
            _SOLVE,
            "Write another arithmetic problem that has the same result as the following one. Do "
            "not write the result.\n\n{text}",
        ),
    ),
    "dual_code": Entry(
        Dual(Code()),
        Prompts(
            "Write a short Python program that prints one number. " + _LANGUAGE,
            _TRACE,
            "Write another program that prints the same number as the following one. "
            + _LANGUAGE
            + "\n\n{text}",
        ),
    ),
}
