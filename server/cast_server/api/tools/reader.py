"""From a model's text to the message of an answer, or to what each chunk adds to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, takewhile
from typing import Any, Protocol
from uuid import uuid4

from cast_server.api.responses import (
    AssistantMessage,
    Delta,
    FunctionCall,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
)
from cast_server.api.tools.base import ToolFormat
from cast_server.api.tools.definitions import Offer
from cast_server.api.tools.source import CallArguments, CallBegin, CallEnd, Content, Piece, Source


class MessageReader(Protocol):
    """Reads one choice. However its text is cut into chunks, the message is the same."""

    @property
    def has_called(self) -> bool:
        """Whether there are calls, and all of them are whole."""

    def read(self, text: str, *, is_last: bool) -> list[Delta]:
        """What more text adds to the message."""
        ...


class TextReader:
    """A message that is all text."""

    has_called = False

    def read(self, text: str, *, is_last: bool) -> list[Delta]:
        del is_last  # nothing is held back
        return [Delta(content=text)] if text else []


class CallReader:
    """A message that may have calls, in a format."""

    def __init__(self, tool_format: ToolFormat, offer: Offer) -> None:
        self._source = Source()
        self._reading = tool_format.read(self._source, offer.names)
        self._is_single = not offer.is_parallel
        self._is_over = False  # what follows the one call that is allowed is left out
        self._begun = self._ended = 0

    @property
    def has_called(self) -> bool:
        return 0 < self._begun == self._ended

    def read(self, text: str, *, is_last: bool) -> list[Delta]:
        """What more text adds. A call's name comes first, in a delta of its own."""
        self._source.add(text)
        self._source.is_whole = is_last
        pieces = list(takewhile(lambda piece: piece is not None, self._reading))
        return [delta for piece in _joined(pieces) if (delta := self._delta(piece)) is not None]

    def _delta(self, piece: Piece) -> Delta | None:
        if self._is_single and self._begun and (self._ended or isinstance(piece, CallBegin)):
            self._is_over = True
        if self._is_over:
            return None
        match piece:
            case Content(text):
                return Delta(content=text)
            case CallBegin(name):
                self._begun += 1
                function = FunctionDelta(name=name, arguments="")
                return self._call(id=f"call_{uuid4().hex[:24]}", type="function", function=function)
            case CallArguments(text):
                return self._call(function=FunctionDelta(arguments=text))
            case CallEnd():
                self._ended += 1
        return None

    def _call(self, **news: Any) -> Delta:
        return Delta(tool_calls=[ToolCallDelta(index=self._begun - 1, **news)])


def _joined(pieces: Iterable[Any]) -> Iterator[Piece]:
    """Adjacent texts of one kind as one."""
    for kind, group in groupby(pieces, type):
        if kind in (Content, CallArguments):
            yield kind("".join(piece.text for piece in group))
        else:
            yield from group


def message_of(deltas: Sequence[Delta]) -> AssistantMessage:
    """The message that they add up to. `content` is null beside calls if there is none."""
    content = "".join(delta.content or "" for delta in deltas)
    calls: list[ToolCall] = []
    for delta in deltas:
        for news in delta.tool_calls or ():
            if news.id is not None:
                function = FunctionCall(name=news.function.name or "", arguments="")
                calls.append(ToolCall(id=news.id, type="function", function=function))
            calls[-1].function.arguments += news.function.arguments
    if not calls:
        return AssistantMessage(role="assistant", content=content, refusal=None)
    return AssistantMessage(
        role="assistant", content=content or None, refusal=None, tool_calls=calls
    )
