"""The answer of a question that is nothing but one expression to compute."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.self_knowledge.expressions import (
    CALCULATION,
    Budget,
    Operation,
    evaluate,
    parse,
)
from cast_server.evaluators.self_knowledge.signs import keyboard

_SPOKEN: Final = tuple(
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), sign)
    for words, sign in (
        ("plus", "+"),
        ("minus", "-"),
        ("times|multiplied by", "*"),
        ("divided by", "/"),
        ("to the power of", "**"),
    )
)
_BOLD: Final = re.compile(r"(?<![\d)])(?<![\d)] )\*\*([^*\n]+)\*\*(?![\d(])")
_EXPRESSION: Final = re.compile(r"(?:-(?=[\d(])|[(\d])[-+*/^().\d\s]*[\d)]")
_MAX_CHARACTERS: Final = 1000
_STRAY: Final = re.compile(r"[-+*/^%!√\d]")
# Whatever else is in the question could change what it means: three apples are no calculation.
_HARMLESS: Final = re.compile(
    r"(?:a|answer|calculate|calculation|compute|determine|equals?|evaluate|exact|expression|find"
    r"|following|is|it|maths?|mathematics|of|please|problem|question|result|simplify|solve|the|this"
    r"|to|value|whats?)"
)


def answer(question: str) -> str:
    """As a whole number or a fraction. Raises Undefined: word_problem, several_expressions,
    not_arithmetic, division_by_zero, too_large …"""
    if len(question) > _MAX_CHARACTERS:
        raise Undefined("word_problem")
    text = keyboard(_BOLD.sub(r"\1", question.replace("`", " ")))
    for pattern, sign in _SPOKEN:
        text = pattern.sub(sign, text)
    text = re.sub(r"(?<=[\d)]) ?x ?(?=[\d(])", "*", text)
    found, rest = _EXPRESSION.findall(text), _EXPRESSION.sub(" ", text)
    words = re.findall(r"[^\W\d_]+", rest.replace("'", "").lower())
    if not all(map(_HARMLESS.fullmatch, words)) or _STRAY.search(rest):
        raise Undefined("word_problem")
    if len(found) != 1:
        raise Undefined("several_expressions" if found else "not_arithmetic")
    node = parse(found[0], CALCULATION)
    if not isinstance(node, Operation):
        raise Undefined("not_arithmetic")
    return str(Fraction(evaluate(node, {}, Budget())))
