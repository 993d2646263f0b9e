"""What answers say, in all the ways that models put it; and what counts as a word."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cast_server.evaluators.self_knowledge import answers, filler, words

UNITS = ("words", "word", "times", "time")
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def spelt(number: int) -> str:
    if number >= 100:
        rest = f" and {spelt(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    if number < 20:
        return ONES[number]
    return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("56", "56"),
        ("**56**", "56"),
        (" 56.\n", "56"),
        ("The answer is 56.", "56"),
        ("The answer is: **56**", "56"),
        ("**Answer:** 56", "56"),
        ("Answer: $56$", "56"),
        (r"\boxed{56}", "56"),
        (r"First 3, then \(\boxed{56}\)", "56"),
        ("There are fifty-six words.", "56"),
        ("There are Fifty six words.", "56"),
        ("The paragraph has 3 sentences and 56 words.", "56"),
        ("It occurs twice.", "2"),
        ("a hundred", "100"),
        ("two hundred fifty three", "253"),
        ("12 + 44 = 56", "56"),
        ("The answer is 12 + 44 = 56.", "56"),
        ("-5", "-5"),
        ("\u22125", "-5"),
        ("1,234", "1234"),
        ("3.0", "3"),
        ("3.5", "7/2"),
        ("7/2", "7/2"),
        ("56 (fifty-six)", "56"),
        ("I count 56, yes, 56.", "56"),
        ("This one has 56.", "56"),
        ("5 or 6", None),
        ("10-20", None),
        ("five or six", None),
        ("**3 sentences** and **56 words**", "56"),
        ("First 10 words, then 20 words: **30** words.", "30"),
        ("First 10 words, then 20 words, in total: 30 words.", "30"),
        ("It has 5 words. Sorry, 6 words.", None),
        ("The answer is one.", "1"),
        ("The word occurs just one time in it.", "1"),
        ("No one could say that for sure.", None),
        ("the 56th", None),
        ("**5** or **6**", None),
        ("I cannot count that.", None),
        ("", None),
        ("someone often", None),
        ("9" * 5000, None),
    ],
)
def test_numbers(answer: str, told: str | None) -> None:
    assert answers.number(answer, UNITS) == told


def test_once_is_a_number_only_where_it_is_asked_how_often() -> None:
    assert answers.number("I would have to count once more.", ("words",)) is None
    assert answers.number("It is used once.", ("times",)) == "1"


@given(st.integers(0, 999), st.sampled_from(("{}", "There are {} words.", "It is {}!", "**{}**")))
def test_numbers_in_words_and_in_digits(number: int, sentence: str) -> None:
    assert answers.number(sentence.format(number), UNITS) == str(number)
    assert answers.number(sentence.format(spelt(number)), UNITS) == str(number)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("1990-05-04", "1990-05-04"),
        ("May 4, 1990", "1990-05-04"),
        ("He was born on the 4th of May, 1990.", "1990-05-04"),
        ("4 May 1990", "1990-05-04"),
        ("**Sept. 3, 1981**", "1981-09-03"),
        ("She was born on May 4, 1929 and died on January 20, 1993.", "1929-05-04"),
        ("She died on May 4, 1990 and was born on March 3, 1900.", "1900-03-03"),
        ("05/04/1990", None),
        ("February 30, 1990", None),
        ("May 1990", None),
        ("May 4, 1929, January 20, 1993", None),
        ("I do not know.", None),
    ],
)
def test_birthdays(answer: str, told: str | None) -> None:
    assert answers.birthday(answer) == told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("True", "true"),
        ("false.", "false"),
        ("**True**. It would be false if …", "true"),
        ("Yes, it holds.", "true"),
        ("No, it is not correct.", "false"),
        ("The statement is true.", "true"),
        ("The statement is not true.", "false"),
        ("That isn't always true.", "false"),
        ("It does not hold.", "false"),
        ("True or false? The answer is false.", "false"),
        ("It is incorrect.", "false"),
        ("It is true for x > 0, false otherwise.", None),
        ("Perhaps.", None),
        ("Nothing is known.", None),
        ("", None),
    ],
)
def test_verdicts(answer: str, told: str | None) -> None:
    assert answers.verdict(answer) == told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("lantern", "lantern"),
        ("Lantern.", "lantern"),
        ("**lantern**", "lantern"),
        ('The word is "lantern".', "lantern"),
        ("The word is \u201clantern\u201d.", "lantern"),
        ("The third word is lantern.", "lantern"),
        ("Word number 5 is: lantern", "lantern"),
        ("It is 'well-known'.", "well-known"),
        ("It's the one with the light", None),
        ('"lantern" or "copper"', None),
        ("", None),
        ("…", None),
    ],
)
def test_words(answer: str, told: str | None) -> None:
    assert answers.word(answer) == told


@given(st.text(max_size=200))
def test_no_answer_is_too_strange(answer: str) -> None:
    for parse in (answers.number, answers.birthday, answers.verdict, answers.word):
        assert parse(answer) is None or parse(answer)


def test_what_a_word_is() -> None:
    text = "\"Well-known,\" he's said - twice; HE'S said."
    assert words.count_words(text) == 7
    assert words.count_word(text, "he's") == 2
    assert words.nth_word(text, 1) == "well-known"
    assert words.sentences("One. Two! Three? Four") == ["One.", "Two!", "Three?", "Four"]


def test_words_to_put_in_are_not_in_the_filler() -> None:
    text = filler.paragraph(Random(0), 500)
    assert not [word for word in filler.WORDS if words.count_word(text, word)]
    assert {len(sentence.split()) for sentence in words.sentences(text)} == {8}
