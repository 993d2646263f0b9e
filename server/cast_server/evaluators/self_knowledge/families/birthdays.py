"""A person born on a given day. Nothing here knows whom a model names: its own texts have no truth,
those of the other arm are people of a short list."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random
from typing import Final

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.self_knowledge import answers
from cast_server.evaluators.self_knowledge.task import Question, Task

_FIRST_DAY: Final = date(1900, 1, 1)
_NUM_DAYS: Final = 36_500
_PEOPLE: Final = (
    ("Albert Einstein", "1879-03-14"),
    ("Charles Darwin", "1809-02-12"),
    ("Abraham Lincoln", "1809-02-12"),
    ("Wolfgang Amadeus Mozart", "1756-01-27"),
    ("Johann Wolfgang von Goethe", "1749-08-28"),
    ("Marie Curie", "1867-11-07"),
    ("Nelson Mandela", "1918-07-18"),
    ("Martin Luther King Jr.", "1929-01-15"),
    ("Mahatma Gandhi", "1869-10-02"),
    ("Winston Churchill", "1874-11-30"),
    ("Charles Dickens", "1812-02-07"),
    ("Jane Austen", "1775-12-16"),
    ("Virginia Woolf", "1882-01-25"),
    ("Pablo Picasso", "1881-10-25"),
    ("Vincent van Gogh", "1853-03-30"),
    ("Ada Lovelace", "1815-12-10"),
    ("Alan Turing", "1912-06-23"),
    ("Stephen Hawking", "1942-01-08"),
    ("Neil Armstrong", "1930-08-05"),
    ("Elvis Presley", "1935-01-08"),
    ("John Lennon", "1940-10-09"),
    ("Paul McCartney", "1942-06-18"),
    ("Marilyn Monroe", "1926-06-01"),
    ("Audrey Hepburn", "1929-05-04"),
    ("Charlie Chaplin", "1889-04-16"),
    ("Alfred Hitchcock", "1899-08-13"),
    ("Muhammad Ali", "1942-01-17"),
    ("Barack Obama", "1961-08-04"),
    ("Angela Merkel", "1954-07-17"),
    ("Queen Elizabeth II", "1926-04-21"),
    ("Michael Jackson", "1958-08-29"),
    ("Steve Jobs", "1955-02-24"),
)


class Birthdays(Task):
    def question(self, rng: Random) -> Question:
        day = _FIRST_DAY + timedelta(rng.randrange(_NUM_DAYS))
        return Question(day.isoformat(), f"{day:%B} {day.day}, {day.year}")

    def foreign(self, question: Question, rng: Random) -> tuple[str, str]:
        del question
        return rng.choice(_PEOPLE)

    def parse(self, answer: str) -> str | None:
        return answers.birthday(answer)

    def truth(self, text: str, question: Question) -> str:
        del text, question
        raise Undefined("no_oracle")
