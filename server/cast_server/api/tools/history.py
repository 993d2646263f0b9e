"""Calls that a conversation has already had, for chat templates."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class CalledFunction(BaseModel):
    """`arguments` is JSON as text, as the model wrote it; some clients send the object itself."""

    model_config = ConfigDict(frozen=True)

    name: str
    arguments: str | dict[str, Any] = ""


class PastCall(BaseModel):
    """An entry of an assistant message's `tool_calls`."""

    model_config = ConfigDict(frozen=True)

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """With arguments as an object, which templates iterate over or dump by themselves."""
        arguments = _parsed(self.function.arguments)
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


def _parsed(arguments: str | dict[str, Any]) -> str | dict[str, Any]:
    """The object, or the text if it is none: models write broken JSON, and clients repeat it."""
    if isinstance(arguments, dict):
        return arguments
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
