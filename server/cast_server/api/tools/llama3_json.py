"""{"name": …, "parameters": {…}} as the whole answer: Llama 3.1, 3.2 and 3.3."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from cast_server.api.tools.calls import call_object, content_and_calls
from cast_server.api.tools.source import Reading, Source

PYTHON_TAG = "<|python_tag|>"


class Llama3Json:
    """Calls at the beginning or after <|python_tag|>, with semicolons between several."""

    markers = (PYTHON_TAG,)
    arguments_key = "parameters"

    def grammar_rules(self, markers: Mapping[str, str], *, is_parallel: bool) -> tuple[str, ...]:
        del markers  # the tag goes before calls of built-in tools
        return ("calls: object" + (' ("; " object)*' if is_parallel else ""),)

    def read(self, source: Source, names: Collection[str]) -> Reading[None]:
        yield from source.skip_space()
        is_call = yield from self._calls(source, names)
        if not is_call:
            source.at = 0
        tagged = partial(self._tagged, source, names)
        yield from content_and_calls(source, PYTHON_TAG, tagged, is_after_call=is_call)

    def _tagged(self, source: Source, names: Collection[str]) -> Reading[bool]:
        yield from source.skip(PYTHON_TAG)
        yield from source.skip_space()
        return (yield from self._calls(source, names))

    def _calls(self, source: Source, names: Collection[str]) -> Reading[bool]:
        if not (yield from call_object(source, names)):
            return False
        is_call = True
        while is_call:
            source.settle()
            yield from source.skip_space()
            yield from source.skip(";")
            yield from source.skip_space()
            is_call = yield from call_object(source, names)
        source.at = 0
        return True
