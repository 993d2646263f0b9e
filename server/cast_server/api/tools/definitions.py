"""What a request offers: functions, and how free the model is to call them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, field_validator

from cast_server.errors import RequestError

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NO_PARAMETERS: Final = {"type": "object", "properties": {}}
_MODES: Final = ("none", "auto", "required")


class FunctionDefinition(BaseModel):
    """A function that the model may call. `parameters` is the JSON Schema of an object."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if _NAME.fullmatch(name):
            return name
        raise ValueError("must be 1 to 64 of the characters a-z, A-Z, 0-9, _ and -")

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if parameters and parameters.get("type", "object") != "object":
            raise ValueError('must be a JSON Schema of "type": "object"')
        return parameters

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        return self.parameters or dict(_NO_PARAMETERS)


class Tool(BaseModel):
    """An entry of `tools`."""

    model_config = ConfigDict(frozen=True)

    type: Literal["function"]
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        """As chat templates know it; all of them count on parameters."""
        function: dict[str, Any] = {"name": self.function.name}
        if self.function.description is not None:
            function["description"] = self.function.description
        function["parameters"] = self.function.schema_of_arguments
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`name` is the one function that must be called; its mode is "required"."""

    mode: str
    name: str | None = None


def _read_choice(value: object) -> ToolChoice:
    if isinstance(value, str) and value in _MODES:
        return ToolChoice(value)
    if isinstance(value, dict) and value.get("type") == "function":
        function = value.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return ToolChoice("required", function["name"])
    raise RequestError(
        'tool_choice must be "none", "auto", "required" or '
        '{"type": "function", "function": {"name": "…"}}.',
        "tool_choice",
    )


def _refuse_twins(tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    for name, count in Counter(tool.function.name for tool in tools).items():
        if count > 1:
            raise RequestError(
                f"tools has {count} functions called {name!r}; each needs a name of its own.",
                "tools",
            )
    return tools


Tools = Annotated[tuple[Tool, ...], AfterValidator(_refuse_twins)]
Choice = Annotated[
    ToolChoice,
    PlainValidator(_read_choice, json_schema_input_type=str | dict[str, Any]),
]


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions that a request lets the model call, and how.

    `name`: the one that must be called. With `is_parallel` an answer may have several calls.
    """

    tools: tuple[Tool, ...] = ()
    is_required: bool = False
    name: str | None = None
    is_parallel: bool = True

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        return tuple(one for one in self.tools if self.name in (None, one.function.name))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.function.name for tool in self.callable_tools)


def offer_of(tools: tuple[Tool, ...], choice: ToolChoice | None, *, is_parallel: bool) -> Offer:
    """What a request's three fields come to. Raises `RequestError` if they contradict."""
    mode = ToolChoice("auto") if choice is None else choice
    if choice is not None and choice.mode != "none" and not tools:
        raise RequestError("tool_choice needs tools to choose from.", "tool_choice")
    if mode.name is not None and mode.name not in {tool.function.name for tool in tools}:
        raise RequestError(
            f"tool_choice names the function {mode.name!r}, which is not in tools.", "tool_choice"
        )
    if mode.mode == "none":
        return Offer()
    return Offer(tools, mode.mode == "required", mode.name, is_parallel)
