"""Arithmetic and comparisons, read and computed here: no Python is run, nothing is unbounded."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from cast_server.evaluators.base import Undefined

Value = int | Fraction  # and bool, as one of Python's integers

_TOKEN: Final = re.compile(
    r"\s*(?:(\d+(?:\.\d+)?)|([A-Za-z_]\w*)|(\*\*|//|<=|>=|==|!=|[-+*/%^()<>]))", re.ASCII
)
_PRODUCT: Final = re.compile(r"[abcd]{2,4}|[pqrs]{2,4}|[u-z]{2,6}|mn|nm")
_MAX_TOKENS: Final = 200  # which also bounds how deep a tree can be
_MAX_DIGITS: Final = 500
_PRECEDENCE: Final[Mapping[str, int]] = MappingProxyType(
    {"or": 1, "and": 2}
    | dict.fromkeys(("<", ">", "<=", ">=", "==", "!="), 4)
    | {"+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "**": 8}
)
_NOT, _COMPARISON, _SIGN, _POWER = 3, 4, 7, 8
_COMPARISONS: Final[Mapping[str, Callable[[Value, Value], bool]]] = MappingProxyType(
    {
        "<": operator.lt,
        ">": operator.gt,
        "<=": operator.le,
        ">=": operator.ge,
        "==": operator.eq,
        "!=": operator.ne,
    }
)
CALCULATION: Final = frozenset({"+", "-", "*", "/", "**"})
WHOLE_NUMBERS: Final = frozenset(
    {"+", "-", "*", "//", "%", "**", "and", "or", "not", *_COMPARISONS}
)


@dataclass(frozen=True, slots=True)
class Number:
    value: Value


@dataclass(frozen=True, slots=True)
class Name:
    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """sign: "-" or "not" with one operand, anything else with two."""

    sign: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """first signs[0] others[0] signs[1] others[1] …, all of which must hold."""

    first: Node
    signs: tuple[str, ...]
    others: tuple[Node, ...]


Node = Number | Name | Operation | Comparison


@dataclass(slots=True)
class Budget:
    """What one computation may still cost. steps: nodes and statements; bits: of any number;
    is_whole: fractions are not known."""

    steps: int = 20_000
    bits: int = 2048
    is_whole: bool = False

    def spend(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Undefined("too_many_steps")

    def bounded(self, value: Value) -> Value:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > self.bits:
            raise Undefined("too_large")
        if self.is_whole and isinstance(value, Fraction):
            raise Undefined("not_whole")
        return value


def parse(text: str, operators: frozenset[str], may_imply: bool = False) -> Node:
    """operators: those of the language. may_imply: "2xy" is 2 * x * y. Raises Undefined:
    not_parsed."""
    tokens = _tokens(text)
    parser = _Parser(_with_products(tokens) if may_imply else tokens, operators)
    node = parser.expression(1)
    parser.end()
    return node


def names(node: Node) -> frozenset[str]:
    match node:
        case Name(name):
            return frozenset({name})
        case Operation(_, operands):
            return frozenset().union(*map(names, operands))
        case Comparison(first, _, others):
            return names(first).union(*map(names, others))
    return frozenset()


def evaluate(node: Node, values: Mapping[str, Value], budget: Budget) -> Value:
    """Exact, as Python does it, but "/" makes a fraction. Raises Undefined: unknown_name,
    division_by_zero, power_undefined, too_large, not_whole, too_many_steps."""
    budget.spend()
    match node:
        case Number(value):
            return value
        case Name(name):
            if name not in values:
                raise Undefined("unknown_name")
            return values[name]
        case Comparison():
            return _compare(node, values, budget)
        case Operation("not", (operand,)):
            return not evaluate(operand, values, budget)
        case Operation("-", (operand,)):
            return -evaluate(operand, values, budget)
        case Operation("and" | "or" as sign, (left, right)):
            value = evaluate(left, values, budget)
            is_decided = not value if sign == "and" else bool(value)
            return value if is_decided else evaluate(right, values, budget)
        case Operation(sign, (left, right)):
            pair = evaluate(left, values, budget), evaluate(right, values, budget)
            return budget.bounded(_apply(sign, *pair, budget))
    raise AssertionError(node)


def _compare(node: Comparison, values: Mapping[str, Value], budget: Budget) -> bool:
    left = evaluate(node.first, values, budget)
    for sign, other in zip(node.signs, node.others, strict=True):
        right = evaluate(other, values, budget)
        if not _COMPARISONS[sign](left, right):
            return False
        left = right
    return True


def _apply(sign: str, left: Value, right: Value, budget: Budget) -> Value:
    if sign == "**":
        return _power(left, right, budget)
    if sign in ("/", "//", "%") and right == 0:
        raise Undefined("division_by_zero")
    match sign:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            return left // right
        case "%":
            return left % right
    return Fraction(left) / Fraction(right)


def _power(base: Value, exponent: Value, budget: Budget) -> Value:
    """Refused before it is computed, if it would be too large."""
    if exponent.denominator != 1 or (base == 0 and exponent < 0):
        raise Undefined("power_undefined")
    size = max(abs(base.numerator), base.denominator).bit_length() - 1
    if size * abs(exponent.numerator) > budget.bits:
        raise Undefined("too_large")
    power = Fraction(base) ** exponent.numerator
    return power.numerator if power.denominator == 1 else power


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match or len(tokens) == _MAX_TOKENS:
            raise Undefined("not_parsed")
        tokens.append("**" if (token := match[0].strip()) == "^" else token)
        position = match.end()
    return tokens


def _with_products(tokens: list[str]) -> list[str]:
    """Names are of one letter here. What could be a word ("0 and y") is no product."""
    if not all(len(token) == 1 or _PRODUCT.fullmatch(token) for token in tokens if token.isalpha()):
        raise Undefined("not_parsed")
    letters = [part for token in tokens for part in (token if token.isalpha() else [token])]
    made: list[str] = []
    for token in letters:
        if made and (made[-1][-1].isalnum() or made[-1] == ")"):
            made += ["*"] if token.isalpha() or token == "(" else []
        made.append(token)
    return made


class _Parser:
    """By precedence."""

    def __init__(self, tokens: list[str], operators: frozenset[str]) -> None:
        self._tokens = [*tokens, ""]
        self._operators = operators
        self._next = 0

    def end(self) -> None:
        if self._peek():
            raise Undefined("not_parsed")

    def expression(self, floor: int) -> Node:
        """As far as its operators bind at least as tightly as `floor`."""
        left = self._operand()
        while (level := self._level()) >= floor:
            if level == _COMPARISON:
                left = self._comparison(left)
                continue
            sign = self._take()
            right = self.expression(_POWER if sign == "**" else level + 1)
            left = Operation(sign, (left, right))
        return left

    def _comparison(self, first: Node) -> Node:
        signs, others = [], []
        while self._level() == _COMPARISON:
            signs.append(self._take())
            others.append(self.expression(_COMPARISON + 1))
        return Comparison(first, tuple(signs), tuple(others))

    def _operand(self) -> Node:
        token = self._take()
        if token == "(":
            inner = self.expression(1)
            if self._take() != ")":
                raise Undefined("not_parsed")
            return inner
        if token in ("-", "+"):
            operand = self.expression(_SIGN)
            return Operation("-", (operand,)) if token == "-" else operand
        if token == "not" and "not" in self._operators:
            return Operation("not", (self.expression(_NOT),))
        return self._leaf(token)

    def _leaf(self, token: str) -> Node:
        if token[:1].isdigit() and len(token) <= _MAX_DIGITS and self._may_be_written(token):
            return Number(Fraction(token) if "." in token else int(token))
        if token in ("True", "False"):
            return Number(token == "True")
        if token.isidentifier() and token not in ("and", "or", "not"):
            return Name(token)
        raise Undefined("not_parsed")

    def _may_be_written(self, number: str) -> bool:
        return "." not in number or "/" in self._operators

    def _level(self) -> int:
        token = self._peek()
        if token in _PRECEDENCE and token not in self._operators:
            raise Undefined("not_parsed")
        return _PRECEDENCE.get(token, 0)

    def _peek(self) -> str:
        return self._tokens[self._next]

    def _take(self) -> str:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token
