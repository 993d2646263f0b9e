"""<tool_call>{"name": …, "arguments": {…}}</tool_call>: Hermes, Qwen 2.5 and 3, and many more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from cast_server.api.tools.calls import call_object, content_and_calls
from cast_server.api.tools.source import Reading, Source

BEGIN, END = "<tool_call>", "</tool_call>"


class Hermes:
    """One call a pair of tags. The closing one may be missing."""

    markers = (BEGIN, END)
    arguments_key = "arguments"

    def grammar_rules(self, markers: Mapping[str, str], *, is_parallel: bool) -> tuple[str, ...]:
        more = r' ("\n" call)*' if is_parallel else ""
        call = rf'call: {markers[BEGIN]} "\n" object "\n" {markers[END]}'
        return (f"calls: call{more}", call)

    def read(self, source: Source, names: Collection[str]) -> Reading[None]:
        yield from content_and_calls(source, BEGIN, partial(self._call, source, names))

    def _call(self, source: Source, names: Collection[str]) -> Reading[bool]:
        yield from source.skip(BEGIN)
        yield from source.skip_space()
        if not (yield from call_object(source, names)):
            return False
        yield from source.skip_after_space(END)
        return True
