"""JSON, a character at a time: may this one come next?"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_Steps = Mapping[str, tuple[str, ...]]


def _any(chars: str, *then: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(chars, then)


def _spaced(state: str, steps: _Steps) -> _Steps:
    return {**_any(" \t\n\r", state), **steps}


_DIGITS: Final = "0123456789"
_VALUE: Final[_Steps] = {
    "{": ("first key",),
    "[": ("first item",),
    '"': ("string",),
    "-": ("minus",),
    "0": ("zero",),
    "t": tuple("rue"),
    "f": tuple("alse"),
    "n": tuple("ull"),
} | _any("123456789", "int")
_EXPONENT: Final = _any("eE", "exponent")

# What has to come → the characters that may be next → what has to come in its place, in order.
_STEPS: Final[Mapping[str, _Steps]] = MappingProxyType(
    {
        "value": _spaced("value", _VALUE),
        "first key": _spaced("first key", {"}": (), '"': ("string", ":", "value", "}")}),
        "}": _spaced("}", {"}": (), ",": ("key", ":", "value", "}")}),
        "key": _spaced("key", {'"': ("string",)}),
        ":": _spaced(":", {":": ()}),
        "first item": _spaced("first item", {"]": ()}),
        "]": _spaced("]", {"]": (), ",": ("value", "]")}),
        "string": {'"': (), "\\": ("escape", "string")},
        "escape": _any('"\\/bfnrt') | {"u": ("hex",) * 4},
        "hex": _any("0123456789abcdefABCDEF"),
        "minus": _any("123456789", "int") | {"0": ("zero",)},
        "zero": _EXPONENT | {".": ("point",)},
        "int": _any(_DIGITS, "int") | _EXPONENT | {".": ("point",)},
        "point": _any(_DIGITS, "fraction"),
        "fraction": _any(_DIGITS, "fraction") | _EXPONENT,
        "exponent": _any(_DIGITS, "power") | _any("+-", "sign"),
        "sign": _any(_DIGITS, "power"),
        "power": _any(_DIGITS, "power"),
    }
    | {char: {char: ()} for char in "rulsea"}
)

# What need not come: a number ends where no more of it follows, and an array may have items.
_OTHERWISE: Final[_Steps] = MappingProxyType(
    {"zero": (), "int": (), "fraction": (), "power": (), "first item": ("value", "]")}
)


class JsonScanner:
    """Checks one JSON value. It keeps a stack of its own, so that no depth is too deep.

    In one thing it is more lenient than JSON: a string may hold raw control characters, as models
    write line breaks into them. `is_in_string` tells whoever wants to escape them.
    """

    def __init__(self) -> None:
        self._to_come = ["value"]

    @property
    def is_complete(self) -> bool:
        return not self._to_come

    @property
    def is_in_string(self) -> bool:
        return self._to_come[-1:] == ["string"]

    def accepts(self, char: str) -> bool:
        """Takes the next character of an incomplete value. Once it says no, it is of no more use.

        A number ends with the character after it, which is not accepted: it then is complete.
        """
        while self._to_come:
            state = self._to_come.pop()
            then = _STEPS[state].get(char)
            if then is None and state == "string":
                then = ("string",)
            if then is not None:
                self._to_come.extend(reversed(then))
                return True
            if state not in _OTHERWISE:
                return False
            self._to_come.extend(reversed(_OTHERWISE[state]))
        return False
