"""A little language: lines that Python would run just so, of whole numbers only.

    name = expression, name += expression and the like, print(expression), if, elif, else, while,
    for name in range(…), pass; comments. Expressions have + - * // % **, comparisons, and, or, not.

Programs are read and run here, step by step: no Python is run, and neither steps, sizes of numbers
nor output are unbounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from cast_server.evaluators.base import Undefined
from cast_server.evaluators.self_knowledge.expressions import (
    WHOLE_NUMBERS,
    Budget,
    Name,
    Node,
    Operation,
    Value,
    evaluate,
    parse,
)

_MAX_CHARACTERS: Final = 4000
_MAX_DEPTH: Final = 20
_MAX_LINES_PRINTED: Final = 200
_KEYWORD: Final = re.compile("and|or|not|if|elif|else|while|for|in|range|print|pass|True|False")
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_]\w*)\s*(//|\*\*|[-+*%])?=(?!=)\s*(.+)", re.ASCII)
_PRINT: Final = re.compile(r"print\s*\((.*)\)")
_HEAD: Final = re.compile(r"(if|elif|while)\b\s*(.+):|(else)\s*:")
_FOR: Final = re.compile(r"for\s+([A-Za-z_]\w*)\s+in\s+range\s*\((.*)\)\s*:", re.ASCII)


@dataclass(frozen=True, slots=True)
class Assign:
    name: str
    value: Node


@dataclass(frozen=True, slots=True)
class Print:
    value: Node


@dataclass(frozen=True, slots=True)
class Branch:
    """The first block whose condition holds; None always does."""

    blocks: tuple[tuple[Node | None, Block], ...]


@dataclass(frozen=True, slots=True)
class While:
    condition: Node
    body: Block


@dataclass(frozen=True, slots=True)
class For:
    name: str
    bounds: tuple[Node, ...]
    body: Block


Statement = Assign | Print | Branch | While | For
Block = tuple[Statement, ...]


def run(source: str, budget: Budget | None = None) -> list[str]:
    """The lines that a program prints. Raises Undefined: not_in_language, too_many_steps,
    too_large, too_much_output, unknown_name, division_by_zero …"""
    machine = _Machine(budget or Budget(is_whole=True))
    machine.run(_Reader(source).program())
    return machine.printed


class _Reader:
    """From lines to statements. Depth is a line's indentation."""

    def __init__(self, source: str) -> None:
        if len(source) > _MAX_CHARACTERS:
            raise Undefined("too_large")
        plain = [re.sub(r"#.*", "", line).rstrip().expandtabs(8) for line in source.splitlines()]
        self._lines = [(len(line) - len(line.lstrip()), line.strip()) for line in plain if line]
        self._next = 0

    def program(self) -> Block:
        block = self._block(0, 0)
        if self._next < len(self._lines):
            raise Undefined("not_in_language")
        return block

    def _block(self, indent: int, depth: int) -> Block:
        statements: list[Statement] = []
        while self._next < len(self._lines) and self._lines[self._next][0] == indent:
            statements.append(self._statement(indent, depth))
        if not statements or depth > _MAX_DEPTH:
            raise Undefined("not_in_language")
        return tuple(statements)

    def _body(self, indent: int, depth: int) -> Block:
        inner = self._lines[self._next][0] if self._next < len(self._lines) else 0
        if inner <= indent:
            raise Undefined("not_in_language")
        return self._block(inner, depth + 1)

    def _statement(self, indent: int, depth: int) -> Statement:
        line = self._lines[self._next][1]
        self._next += 1
        if line == "pass":
            return Branch(())
        if match := _FOR.fullmatch(line):
            bounds = tuple(_expression(part) for part in match[2].split(","))
            if len(bounds) > 3:
                raise Undefined("not_in_language")
            return For(_name(match[1]), bounds, self._body(indent, depth))
        if (match := _HEAD.fullmatch(line)) and match[1] == "while":
            return While(_expression(match[2]), self._body(indent, depth))
        if match and match[1] == "if":
            return self._branch(_expression(match[2]), indent, depth)
        return _simple(line)

    def _branch(self, condition: Node, indent: int, depth: int) -> Branch:
        blocks: list[tuple[Node | None, Block]] = [(condition, self._body(indent, depth))]
        while (match := self._continuation(indent)) and blocks[-1][0] is not None:
            self._next += 1
            condition_of_next = None if match[3] else _expression(match[2])
            blocks.append((condition_of_next, self._body(indent, depth)))
        return Branch(tuple(blocks))

    def _continuation(self, indent: int) -> re.Match[str] | None:
        if self._next == len(self._lines) or self._lines[self._next][0] != indent:
            return None
        match = _HEAD.fullmatch(self._lines[self._next][1])
        return match if match and (match[1] == "elif" or match[3]) else None


def _simple(line: str) -> Statement:
    if match := _PRINT.fullmatch(line):
        return Print(_expression(match[1]))
    if match := _ASSIGNMENT.fullmatch(line):
        name, sign, value = _name(match[1]), match[2], _expression(match[3])
        return Assign(name, Operation(sign, (Name(name), value)) if sign else value)
    raise Undefined("not_in_language")


def _name(name: str) -> str:
    if _KEYWORD.fullmatch(name):
        raise Undefined("not_in_language")
    return name


def _expression(text: str) -> Node:
    try:
        return parse(text, WHOLE_NUMBERS)
    except Undefined:
        raise Undefined("not_in_language") from None


@dataclass(slots=True)
class _Machine:
    budget: Budget
    values: dict[str, Value] = field(default_factory=dict)
    printed: list[str] = field(default_factory=list)

    def run(self, block: Block) -> None:
        for statement in block:
            self.budget.spend()
            match statement:
                case Assign(name, value):
                    self.values[name] = self._value(value)
                case Print(value):
                    self._print(str(self._value(value)))
                case Branch(blocks):
                    self._run_first(blocks)
                case While(condition, body):
                    while self._value(condition):
                        self.run(body)
                case For():
                    self._loop(statement)

    def _run_first(self, blocks: tuple[tuple[Node | None, Block], ...]) -> None:
        for condition, body in blocks:
            if condition is None or self._value(condition):
                return self.run(body)
        return None

    def _loop(self, statement: For) -> None:
        bounds = [int(self._value(bound)) for bound in statement.bounds]
        if len(bounds) == 3 and bounds[2] == 0:
            raise Undefined("step_of_zero")
        for self.values[statement.name] in range(*bounds):
            self.budget.spend()
            self.run(statement.body)

    def _print(self, line: str) -> None:
        if len(self.printed) == _MAX_LINES_PRINTED:
            raise Undefined("too_much_output")
        self.printed.append(line)

    def _value(self, node: Node) -> Value:
        return evaluate(node, self.values, self.budget)
