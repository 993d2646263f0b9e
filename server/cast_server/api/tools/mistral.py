"""[TOOL_CALLS][{"name": …, "arguments": {…}}, …], or newer: [TOOL_CALLS]name[ARGS]{…}."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from functools import partial
from typing import Final

from cast_server.api.tools.calls import call_object, content_and_calls, sent_call
from cast_server.api.tools.source import Reading, Source

BEGIN, ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_WORD: Final = frozenset(string.ascii_letters + string.digits + "_-")


class Mistral:
    """Both of Mistral's ways."""

    markers = (BEGIN, ID, ARGUMENTS)
    arguments_key = "arguments"

    def grammar_rules(self, markers: Mapping[str, str], *, is_parallel: bool) -> tuple[str, ...]:
        more = ' (", " object)*' if is_parallel else ""
        return (f'calls: {markers[BEGIN]} "[" object{more} "]"',)

    def read(self, source: Source, names: Collection[str]) -> Reading[None]:
        yield from content_and_calls(source, BEGIN, partial(self._calls, source, names))

    def _calls(self, source: Source, names: Collection[str]) -> Reading[bool]:
        yield from source.skip(BEGIN)
        yield from source.skip_space()
        if (yield from source.peek()) == "[":
            return (yield from self._array(source, names))
        return (yield from self._named(source, names))

    def _array(self, source: Source, names: Collection[str]) -> Reading[bool]:
        yield from source.skip("[")
        yield from source.skip_space()
        if not (yield from call_object(source, names)):
            return False
        is_call = True
        while is_call:
            source.settle()
            yield from source.skip_space()
            if (yield from source.skip("]")):
                return True
            yield from source.skip(",")
            yield from source.skip_space()
            is_call = yield from call_object(source, names)
        source.at = 0
        return True

    def _named(self, source: Source, names: Collection[str]) -> Reading[bool]:
        name = yield from _word(source)
        if (yield from source.skip(ID)):
            yield from _word(source)
        yield from source.skip(ARGUMENTS)
        yield from source.skip_space()
        if name not in names or (yield from source.peek()) != "{":
            return False
        yield from sent_call(source, name)
        return True


def _word(source: Source) -> Reading[str]:
    word = ""
    while (yield from source.peek()) in _WORD:
        word += source.take(1)
    return word
