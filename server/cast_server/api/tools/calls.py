"""What formats have in common: content around calls, and calls as JSON objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Final

from cast_server.api.tools.scanner import JsonScanner
from cast_server.api.tools.source import (
    WHITE_SPACE,
    CallArguments,
    CallBegin,
    CallEnd,
    Content,
    Reading,
    Source,
)

# Llama's models say "parameters"; some models say the one where they were taught the other.
_ARGUMENTS: Final = ("arguments", "parameters")
_KEYS: Final = ("name", *_ARGUMENTS, "type", "id")


def content_and_calls(
    source: Source,
    marker: str,
    read_call: Callable[[], Reading[bool]],
    *,
    is_after_call: bool = False,
) -> Reading[None]:
    """Passes text on, and calls where `marker` stands. White space around calls belongs to them.

    `read_call` begins at the marker. It answers False if there is no call after all, before it has
    passed on anything; the marker then is text like any other.
    """
    while (yield from _content(source, marker, is_after_call)):
        yield from source.skip_space()
        end = source.at + len(marker)
        is_after_call = yield from read_call()
        if not is_after_call:
            source.at = 0
            yield Content(source.take(end))


def _content(source: Source, marker: str, is_after_call: bool) -> Reading[bool]:
    """Passes text on, up to a marker and the white space before it. False if there is none."""
    while True:
        source.settle()
        rest = source.rest
        begin = rest.find(marker)
        if begin >= 0:
            count = len(rest[:begin].rstrip(WHITE_SPACE))
        elif source.is_whole:
            count = 0 if is_after_call and not rest.strip(WHITE_SPACE) else len(rest)
        else:
            count = _safe(rest, marker)
        if count:
            is_after_call = False
            yield Content(source.take(count))
            source.settle()
        if begin >= 0 or source.is_whole:
            return begin >= 0
        yield None


def _safe(text: str, marker: str) -> int:
    """Characters in front of what may become white space and a marker."""
    longest = min(len(text), len(marker) - 1)
    held = next((n for n in range(longest, 0, -1) if marker.startswith(text[-n:])), 0)
    return len(text[: len(text) - held].rstrip(WHITE_SPACE))


def call_object(source: Source, names: Collection[str]) -> Reading[bool]:
    """Reads {"name": …, "arguments": {…}}; without arguments, they are {}.

    False if it is no call of one of the `names`. From the first character of arguments that follow
    the name on it is one, whatever comes.
    """
    name, arguments, begins = "", "{}", "{"
    while (yield from source.skip(begins)):
        begins = ","
        key = yield from _key(source)
        if name and key in _ARGUMENTS and (yield from source.peek()) == "{":
            yield from sent_call(source, name)
            yield from _rest_of_object(source)
            return True
        if key not in _KEYS:
            return False
        value = yield from _value(source)
        if key == "name" and not (name := _name(value, names)):
            return False
        if key in _ARGUMENTS:
            arguments = value
        yield from source.skip_space()
    if not (name and arguments.startswith("{") and (yield from source.skip("}"))):
        return False
    yield CallBegin(name)
    yield CallArguments(arguments)
    yield CallEnd()
    return True


def sent_call(source: Source, name: str) -> Reading[None]:
    """A call whose arguments begin here. They are passed on as they come, as far as they are JSON.

    If they end before they are whole, so does the call: what follows is content.
    """
    yield CallBegin(name)
    scanner = JsonScanner()
    while text := (yield from _more(source, scanner)):
        yield CallArguments(text)
    if scanner.is_complete:
        yield CallEnd()


def _rest_of_object(source: Source) -> Reading[None]:
    """What follows the arguments adds nothing; models forget the last brace."""
    while True:
        source.settle()
        yield from source.skip_space()
        if (yield from source.skip("}")):
            return
        is_pair = (yield from source.skip(",")) and (yield from _key(source)) is not None
        if not (is_pair and (yield from _value(source))):
            source.at = 0
            return


def _name(value: str, names: Collection[str]) -> str:
    """The function's name that `value` is as JSON; "" if there is no such function."""
    name = json.loads(value, strict=False) if value.startswith('"') else ""
    return name if name in names else ""


def _key(source: Source) -> Reading[str | None]:
    """A key and its colon, up to the value; None if there is none."""
    yield from source.skip_space()
    if (yield from source.peek()) != '"':
        return None
    text = yield from _value(source)
    yield from source.skip_space()
    if not text or not (yield from source.skip(":")):
        return None
    yield from source.skip_space()
    return str(json.loads(text))


def _value(source: Source) -> Reading[str]:
    """A JSON value; "" if it is none, or not whole."""
    scanner = JsonScanner()
    text = ""
    while more := (yield from _more(source, scanner)):
        text += more
    return text if scanner.is_complete else ""


def _more(source: Source, scanner: JsonScanner) -> Reading[str]:
    """The next character of a JSON value; "" if that has ended, or goes on as no JSON would.

    Raw control characters in strings, which JSON forbids and models write, come out escaped.
    """
    if scanner.is_complete:
        return ""
    char = yield from source.peek()
    is_raw = char < " " and scanner.is_in_string
    if not char or not scanner.accepts(char):
        return ""
    source.at += 1
    return json.dumps(char)[1:-1] if is_raw else char
