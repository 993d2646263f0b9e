"""Statements such as "x^2 + y^2 >= 2xy for all real numbers x and y": read, and tried on numbers.

A counterexample is exact and settles the matter. That none was found does not prove a statement,
but few false ones that people or models write survive so many points.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from random import Random
from typing import Final

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.self_knowledge.expressions import (
    CALCULATION,
    Budget,
    Comparison,
    Node,
    Value,
    evaluate,
    names,
    parse,
)
from cast_server.evaluators.self_knowledge.signs import keyboard

_GRAMMAR: Final = CALCULATION | {"<", ">", "<=", ">="}
_STATEMENT: Final = re.compile(
    r"(?:for (?:all|any|every|each) "
    r"(?P<before>(?:[^,:]|,(?= ?[a-z]\s*(?:[<>]=?\s*-?\d+\s*)?[,:]))*)[,:]\s*"
    r"(?:we have |it holds that )?)?"
    r"(?P<claim>.*?)(?:,?\s*for (?:all|any|every|each) (?P<after>.*))?",
    re.IGNORECASE,
)
_DOMAIN: Final = re.compile(
    r"(?:(?P<kind>real|positive|positive real|non-?negative|non-?negative real) )?"
    r"(?:numbers? |values? of |values )?(?P<names>[a-z](?:(?:,? and |, ?)[a-z])*)"
    r"(?: ?(?P<sign><=|>=|<|>) ?(?P<bound>-?\d+))?"
)
_LABEL: Final = re.compile(
    r"^\W*(?:the )?(?:statement|inequality|theorem|claim|answer)\W*?(?:is)?\s*:", re.IGNORECASE
)
_FAR: Final = tuple(map(Fraction, (10, -10, 100, -100)))
_GRID: Final = tuple(Fraction(k, 4) for k in range(-24, 25)) + _FAR
_FINE_GRID: Final = tuple(Fraction(k, 20) for k in range(-120, 121)) + _FAR
_MAX_CHARACTERS: Final = 500
_NUM_DRAWS: Final = 300
_MIN_POINTS: Final = 20
_MAX_NAMES: Final = 4
_MAX_STEPS: Final = 50_000  # for all points together


@dataclass(frozen=True, slots=True)
class Statement:
    """A claim about all numbers of its names for which the conditions hold."""

    claim: Node
    names: tuple[str, ...]
    conditions: tuple[Node, ...]


def verdict(text: str) -> str:
    """ "false" if a counterexample was found, "true" if none was. Raises Undefined: not_parsed,
    several_statements, domain_not_understood, too_few_points, too_many_steps …"""
    statement, budget = read(text), Budget(_MAX_STEPS)
    tried = 0
    for point in _points(statement.names):
        values = dict(zip(statement.names, point, strict=True))
        try:
            if not all(evaluate(c, values, budget) for c in statement.conditions):
                continue
            if not evaluate(statement.claim, values, budget):
                return "false"
        except Undefined as undefined:
            if undefined.reason not in ("division_by_zero", "power_undefined"):
                raise
            continue
        tried += 1
    if tried < _MIN_POINTS:
        raise Undefined("too_few_points")
    return "true"


def read(text: str) -> Statement:
    plain = keyboard(re.sub(r"\*\*([^*\n]*[A-Za-z]{3}[^*\n]*)\*\*|`", r"\1", text))
    lines = [line for line in plain.splitlines() if re.search(r"[<>]", line)]
    if len(lines) != 1:
        raise Undefined("several_statements" if lines else "not_parsed")
    if len(lines[0]) > _MAX_CHARACTERS:
        raise Undefined("too_large")
    line = _LABEL.sub("", lines[0]).strip().rstrip(". ")
    match = _STATEMENT.fullmatch(line)
    if not match or (match["before"] and match["after"]):
        raise Undefined("not_parsed")
    claim = parse(match["claim"].strip().rstrip(","), _GRAMMAR, may_imply=True)
    if not isinstance(claim, Comparison) or not 1 <= len(names(claim)) <= _MAX_NAMES:
        raise Undefined("not_parsed")
    domain = match["before"] or match["after"] or ""
    conditions = tuple(_conditions(domain.strip().lower(), names(claim)))
    return Statement(claim, tuple(sorted(names(claim))), conditions)


def _conditions(domain: str, used: frozenset[str]) -> Iterator[Node]:
    if not domain or domain in ("real numbers", "real values", "numbers"):
        return
    match = _DOMAIN.fullmatch(domain)
    listed = re.findall(r"\b[a-z]\b", match["names"]) if match else []
    if not match or not used <= set(listed):
        raise Undefined("domain_not_understood")
    for name in sorted(used):
        if "positive" in (kind := match["kind"] or ""):
            yield parse(f"{name} > 0", _GRAMMAR)
        if "negative" in kind:
            yield parse(f"{name} >= 0", _GRAMMAR)
        if match["sign"]:
            yield parse(f"{name} {match['sign']} {match['bound']}", _GRAMMAR)


def _points(used: tuple[str, ...]) -> Iterator[tuple[Value, ...]]:
    """The diagonal first, where inequalities tend to be tight."""
    yield from ((value,) * len(used) for value in _FINE_GRID)
    if len(used) > 1:
        rng = Random(0)
        yield from islice(iter(lambda: tuple(rng.choices(_GRID, k=len(used))), None), _NUM_DRAWS)
