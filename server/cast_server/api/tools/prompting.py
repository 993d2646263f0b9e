"""Tools for models whose chat template knows none: told in words, in the way of Hermes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from cast_server.api.tools.hermes import BEGIN, END

_INTRODUCTION: Final = """\
You may call functions to answer the user. These are their signatures, one a line, as JSON:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as a JSON object between tags, like this:
{begin}
{{"name": "function name", "arguments": {{"argument name": "value"}}}}
{end}
The results are then given to you between <tool_response> and </tool_response>. If no function is \
needed, answer directly."""

Conversation = list[dict[str, Any]]


def told_in_words(conversation: Conversation, tools: Sequence[dict[str, Any]]) -> Conversation:
    """The conversation with tools in the system message, and calls and results as text."""
    told = _as_text(conversation)
    if not tools:
        return told
    text = _INTRODUCTION.format(tools="\n".join(map(_json, tools)), begin=BEGIN, end=END)
    if told[0]["role"] == "system":
        own = told.pop(0)["content"]
        text = f"{own}\n\n{text}" if own else text
    return [{"role": "system", "content": text}, *told]


def _as_text(conversation: Conversation) -> Conversation:
    """Results that follow each other become one message: templates want roles to take turns."""
    told: Conversation = []
    last_role = ""
    for message in conversation:
        role, content = message["role"], message["content"]
        if role == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
        calls = [_json(call["function"]) for call in message.get("tool_calls") or ()]
        parts = [content] * bool(content) + [f"{BEGIN}\n{call}\n{END}" for call in calls]
        if role == last_role == "tool":
            told[-1]["content"] += "\n" + content
        else:
            told.append({"role": "user" if role == "tool" else role, "content": "\n".join(parts)})
        last_role = role
    return told


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
