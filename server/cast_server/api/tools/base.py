"""What a format of tool calls has to say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from cast_server.api.tools.source import Reading, Source


class ToolFormat(Protocol):
    """How a family of models writes calls."""

    @property
    def markers(self) -> tuple[str, ...]:
        """What stands around calls. Where these are special tokens, text must show them."""

    @property
    def arguments_key(self) -> str:
        """What the arguments are called beside "name"."""

    def grammar_rules(self, markers: Mapping[str, str], *, is_parallel: bool) -> tuple[str, ...]:
        """Lark rules of an answer that is one call, or several: `calls`, around `object`.

        `markers`: each of the format's markers as a terminal.
        """

    def read(self, source: Source, names: Collection[str]) -> Reading[None]:
        """Reads a whole answer: content, and calls of the functions called `names`."""
        ...
