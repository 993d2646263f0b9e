"""What an answer may be, as a request says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GrammarKind = Literal["json_schema", "regex", "choice", "lark", "gbnf"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """The texts that an answer may be; it ends with `stop` only where it is one of them.

    `text` is a JSON schema, a regular expression that the whole answer matches (in Rust's syntax),
    a JSON array of strings to choose from, a grammar in llguidance's dialect of Lark, which also
    takes `%json {…}` and special tokens such as `<|end|>`, or one in llama.cpp's GBNF (or in Lark).
    """

    kind: GrammarKind
    text: str
