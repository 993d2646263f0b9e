"""A grammar of nothing but calls, for requests that require some."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from cast_server.api.tools.base import ToolFormat
from cast_server.api.tools.definitions import Offer, Tool
from cast_server.engine.grammar import Grammar

# As templates write it. White space of its own would let a model write nothing else for ever.
_SPACING: Final = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
_NOTHING: Final = {"type": "object", "properties": {}, "additionalProperties": False}


def grammar_of(
    tool_format: ToolFormat, offer: Offer, tokenizer: Any, answer: dict[str, Any] | None = None
) -> Grammar:
    """One call of the offered functions, or several; arguments are what the schemas say.

    With the JSON schema of an `answer`, it may be that instead.
    In llguidance's dialect of Lark: the format has the rules around `object`, one of the calls.
    """
    special = special_ids(tokenizer)
    markers = {
        marker: f"<[{special[marker]}]>" if marker in special else json.dumps(marker)
        for marker in tool_format.markers
    }
    rules = tool_format.grammar_rules(markers, is_parallel=offer.is_parallel)
    objects = _objects(offer.callable_tools, tool_format.arguments_key)
    start = ["start: calls"]
    if answer is not None:
        start = ["start: calls | answer", _json_rule("answer", answer)]
    return Grammar("lark", "\n".join((*start, *rules, *objects)))


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Tokens that text does not show unless it is asked to, and that no text spells."""
    added = tokenizer.added_tokens_decoder.items()
    return {token.content: token_id for token_id, token in added if token.special}


def _objects(tools: Sequence[Tool], arguments_key: str) -> list[str]:
    names = [f"call_{i}" for i in range(len(tools))]
    rules = [f"object: {' | '.join(names)}"]
    for name, tool in zip(names, tools, strict=True):
        begin = f'{{"name": "{tool.function.name}", "{arguments_key}": '
        rules.append(f'{name}: {json.dumps(begin)} arguments_{name} "}}"')
        rules.append(_json_rule(f"arguments_{name}", tool.function.parameters or _NOTHING))
    return rules


def _json_rule(name: str, schema: dict[str, Any]) -> str:
    return f"{name}: %json {json.dumps({**schema, 'x-guidance': _SPACING})}"
