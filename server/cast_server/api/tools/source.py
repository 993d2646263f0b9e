"""A model's text while it comes, for readers that wait where it has not come yet.

A reader is a generator. It yields pieces of the message, and None where it needs more text; what
it returns is for the reader that called it by `yield from`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

WHITE_SPACE: Final = " \t\n\r"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Content:
    """Text that is no part of a call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call of one of the request's functions begins."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON object of the call's arguments, as text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The call's arguments are whole."""


Piece: TypeAlias = Content | CallBegin | CallArguments | CallEnd
Reading: TypeAlias = Generator[Piece | None, None, _T]


class Source:
    """The text, and how far it has been read. What has been settled cannot be read again."""

    def __init__(self) -> None:
        self._text = ""
        self.at = 0
        self.is_whole = False

    def add(self, text: str) -> None:
        self._text += text

    @property
    def rest(self) -> str:
        """What has come and was not read."""
        return self._text[self.at :]

    def settle(self) -> None:
        """Forgets what was read; `at` counts from here on."""
        self._text, self.at = self.rest, 0

    def take(self, count: int) -> str:
        """The next characters, which have come."""
        self.at += count
        return self._text[self.at - count : self.at]

    def peek(self) -> Reading[str]:
        """The next character; "" at the end of the text."""
        while self.at == len(self._text):
            if self.is_whole:
                return ""
            yield None
        return self._text[self.at]

    def skip(self, expected: str) -> Reading[bool]:
        """Reads what is expected, or nothing."""
        begin = self.at
        for char in expected:
            if (yield from self.peek()) != char:
                self.at = begin
                return False
            self.at += 1
        return True

    def skip_space(self) -> Reading[None]:
        while (char := (yield from self.peek())) and char in WHITE_SPACE:
            self.at += 1

    def skip_after_space(self, expected: str) -> Reading[None]:
        """Reads what is expected and white space before it, or nothing."""
        begin = self.at
        yield from self.skip_space()
        if not (yield from self.skip(expected)):
            self.at = begin
