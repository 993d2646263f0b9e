"""What a model's answer says. None is an answer that cannot be told, which is not a wrong one."""

from __future__ import annotations

import re
from datetime import date
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from cast_server.evaluators.self_knowledge.words import bare

_MINUS: Final = re.compile(r"[\u2212\u2013](?=\d)")  # the minus sign and the dash
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER: Final = r"-?\d+(?:\.\d+|/[1-9]\d*)?(?![\w/]|\.\d)"
_ALL_NUMBERS: Final = re.compile(rf"(?<![\w./]){_NUMBER}")
_STATED: Final = re.compile(
    rf"\b(?:answer|total)(?:\s+(?:is|of))?\s*[:=]?\s*({_NUMBER})(?!\s*[-+*/=])", re.IGNORECASE
)
_EQUALS: Final = re.compile(rf"=\s*({_NUMBER})\s*\.?\s*$")
_BOXED: Final = re.compile(r"\\boxed\{([^{}]*)\}")
_BOLD: Final = re.compile(r"\*\*([^*\n]+)\*\*")
_MARKUP: Final = re.compile(r"[*`$]|\\[()\[\]]")
_DIGITS_AT_MOST: Final = 2000

_UNITS: Final = "one|two|three|four|five|six|seven|eight|nine"
_TEENS: Final = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS: Final = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_VALUES: Final = MappingProxyType(
    {word: value for value, word in enumerate(f"{_UNITS}|{_TEENS}".split("|"), start=1)}
    | {word: 10 * value for value, word in enumerate(_TENS.split("|"), start=2)}
    | {"a": 1, "zero": 0, "once": 1, "twice": 2, "thrice": 3}
)
_BELOW_HUNDRED: Final = rf"(?:(?:{_TENS})(?:[\s-]+(?:{_UNITS}))?|{_TEENS}|{_UNITS})"
_IN_WORDS: Final = re.compile(
    rf"\b(?:(?:{_UNITS}|a)[\s-]hundred(?:(?:\s+and)?[\s-]+{_BELOW_HUNDRED})?|{_BELOW_HUNDRED}"
    r"|zero|once|twice|thrice)\b",
    re.IGNORECASE,
)
_MONTHS: Final = (
    "january|february|march|april|may|june|july|august|september|october|november|december"
)
_SHORT_MONTHS: Final = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_MONTH: Final = f"{_MONTHS}|{_SHORT_MONTHS}|sept"
_DATES: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})\b",
        rf"\b(?P<month>{_MONTH})\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>\d{{4}})\b",
        rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH})\.?,?\s+"
        r"(?P<year>\d{4})\b",
    )
)
_VERDICT: Final = re.compile(
    r"\b(?P<no>(?:is|does)(?:\s+not|n't)\s+(?:\w+\s+)?(?:true|hold|correct)|not\s+(?:\w+\s+)?true"
    r"|untrue|incorrect|false|no)\b|\b(?P<yes>true|correct|yes|holds)\b",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(
    r"\*\*([^*\n]+)\*\*|[\"\u201c]([^\"\u201c\u201d\n]+)[\"\u201d]|(?<!\w)['\u2018]([^'\u2018\u2019\n]+)['\u2019](?!\w)"
)
_WORD_AT_END: Final = re.compile(
    r"\b(?:is|word|answer)\s*:?\s*([\w'\u2019-]+)\s*[.!]?\s*$", re.IGNORECASE
)


def number(answer: str, units: tuple[str, ...] = ()) -> str | None:
    """The one number that an answer gives, in digits or else in words.

    The only one that is boxed; else the only one after "answer is" or "total"; else in bold; before
    one of the units; after a last equals sign; at all.
    """
    plain = _THOUSANDS.sub("", _MINUS.sub("-", answer))
    if not _ALL_NUMBERS.search(plain):
        plain = _digits_for_words(plain, units)
    bare_text = _MARKUP.sub("", plain)
    bold = " ; ".join(_BOLD.findall(plain))
    unit = rf"(?<![\w./])({_NUMBER})\s+(?:{'|'.join(units)})\b" if units else r"(?!)"
    for found in (
        " ; ".join(_BOXED.findall(plain)),
        " ; ".join(_STATED.findall(bare_text)),
        bold,
        " ; ".join(re.findall(unit, bare_text, re.IGNORECASE)),
        " ; ".join(_EQUALS.findall(bare_text)),
        bare_text,
    ):
        if len(numbers := _numbers(found)) == 1:
            return numbers.pop()
    return None


def _numbers(text: str) -> set[str]:
    found = _ALL_NUMBERS.findall(text)
    return {str(Fraction(digits)) for digits in found if len(digits) <= _DIGITS_AT_MOST}


def _digits_for_words(text: str, units: tuple[str, ...]) -> str:
    return _IN_WORDS.sub(
        lambda phrase: str(_value(phrase[0].lower())) if _counts(phrase, units) else phrase[0], text
    )


def _counts(phrase: re.Match[str], units: tuple[str, ...]) -> bool:
    """ "No one knows" and "once more" are no numbers: only a short answer, or the unit behind it,
    makes one of "one", and "once" is for tasks that ask how often."""
    text, word = phrase.string, phrase[0].lower()
    if word in ("once", "twice", "thrice"):
        return "times" in units
    is_short, next_words = len(text.split()) <= 4, text[phrase.end() :].split()
    return word != "one" or is_short or (bool(next_words) and bare(next_words[0]) in units)


def _value(phrase: str) -> int:
    total = 0
    for word in re.findall(r"[a-z]+", phrase):
        total = total * 100 if word == "hundred" else total + _VALUES.get(word, 0)
    return total


def birthday(answer: str) -> str | None:
    """The one full date that an answer gives, or the one after "born", as 1990-05-04. Dates in
    figures alone are told only if they begin with the year."""
    born = re.search(r"\bborn\b", answer, re.IGNORECASE)
    found = _dates(answer)
    after = _dates(answer[born.end() :]) if born else []
    if len(set(found)) > 1 and after:
        return after[0]
    return found[0] if len(set(found)) == 1 else None


def _dates(text: str) -> list[str]:
    matches = [match for pattern in _DATES for match in pattern.finditer(text)]
    matches.sort(key=lambda match: match.start())
    return [made for match in matches if (made := _date(match))]


def _date(match: re.Match[str]) -> str | None:
    month = match["month"].lower()
    number_of_month = (
        int(month) if month.isdigit() else 1 + _SHORT_MONTHS.split("|").index(month[:3])
    )
    try:
        return date(int(match["year"]), number_of_month, int(match["day"])).isoformat()
    except ValueError:
        return None


def verdict(answer: str) -> str | None:
    """ "true" or "false": after "answer is", else the first word, else the only one there is."""
    plain = re.sub(r"\btrue or false\b", "", _MARKUP.sub("", answer), flags=re.IGNORECASE).strip()
    stated = re.search(r"\banswer\s*(?:is)?\s*:?\s*", plain, re.IGNORECASE)
    for start in (stated.end() if stated else None, 0):
        if start is not None and (match := _VERDICT.match(plain, start)):
            return _told(match)
    found = {_told(match) for match in _VERDICT.finditer(plain)}
    return found.pop() if len(found) == 1 else None


def _told(match: re.Match[str]) -> str:
    return "false" if match["no"] else "true"


def word(answer: str) -> str | None:
    """The one word that an answer gives: alone, in bold or quotes, or last after "is"; bare."""
    words = answer.split()
    if len(words) == 1:
        return bare(words[0]) or None
    quoted = {bare(part) for parts in _QUOTED.findall(answer) for part in parts if part}
    quoted = {part for part in quoted if part and " " not in part}
    if len(quoted) == 1:
        return quoted.pop()
    last = _WORD_AT_END.search(answer)
    return bare(last[1]) or None if last and not quoted else None
