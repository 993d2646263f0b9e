"""What an answer may be, as a request says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GrammarKind = Literal["json_schema", "regex", "choice", "lark"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """The texts that an answer may be; it ends with `stop` only where it is one of them.

    `text` is a JSON schema, a regular expression that the whole answer matches (in Rust's syntax),
    a JSON array of strings to choose from, or a grammar in llguidance's dialect of Lark, which also
    takes `%json {…}` and special tokens such as `<|end|>`.
    """

    kind: GrammarKind
    text: str
