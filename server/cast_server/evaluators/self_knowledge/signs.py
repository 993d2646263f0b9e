"""Mathematics as models write it, in the signs of a keyboard."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

_PLAIN: Final = MappingProxyType(
    {
        ord(sign): plain
        for signs, plain in (
            ("\u00d7\u00b7\u22c5\u2217", "*"),
            ("\u00f7\u2215", "/"),
            ("\u2212\u2013", "-"),
            ("≤⩽", "<="),
            ("≥⩾", ">="),
            ("²", "^2"),
            ("³", "^3"),
            ("⁴", "^4"),
        )
        for sign in signs
    }
)
_LATEX: Final = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}", r"((\1)/(\2))"),
        (r"\\(?:times|cdot)\b", "*"),
        (r"\\div\b", "/"),
        (r"\\(?:geq?|geqslant)\b", ">="),
        (r"\\(?:leq?|leqslant)\b", "<="),
        (r"\\(?:left|right)\b|\\[()\[\],]|\$", " "),
        (r"\^\{([^{}]+)\}", r"^(\1)"),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"[ \t]+", " "),
    )
)


def keyboard(text: str) -> str:
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text.translate(_PLAIN)
