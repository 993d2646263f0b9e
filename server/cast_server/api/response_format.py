"""The form that a client wants of its answer, in OpenAI's words and in vLLM's.

    response_format      {"type": "text" | "json_object" | "json_schema", "json_schema": {…}}
    structured_outputs   {"json" | "regex" | "choice" | "grammar" | "json_object": …}
    guided_json, guided_regex, guided_choice, guided_grammar: vLLM's older names

At most one of them makes sense. Whitespace in JSON is left to the model, but not without end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cast_server.api.engine import Engine
from cast_server.engine.grammar import Grammar
from cast_server.errors import RequestError

_ANY_OBJECT: Final = Grammar("json_schema", '{"type": "object"}')
_NOUNS: Final = {
    "json_schema": "schema",
    "regex": "regular expression",
    "choice": "choices",
    "lark": "grammar",
    "gbnf": "grammar",
}

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Text = Annotated[str, Field(min_length=1)]
Choices = Annotated[tuple[Text, ...], Field(min_length=1)]
Flag = Annotated[bool, Field(strict=True)]


@dataclass(frozen=True, slots=True)
class Form:
    """A grammar, the field of the body that asks for it, and how to call it in a message."""

    grammar: Grammar
    param: str
    name: str


class _Closed(BaseModel):
    """An object whose unknown fields would change the answer, so that they are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JsonSchema(_Closed):
    """OpenAI's wrapping of a schema. Whether `strict` or not, the answer follows the schema."""

    name: Name
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: Flag | None = None


class ResponseFormat(_Closed):
    """OpenAI's field."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        field = "response_format.json_schema"
        if self.type == "json_schema" and self.json_schema is None:
            raise RequestError(f"{field} is required, as the type is json_schema.", field)
        if self.type != "json_schema" and self.json_schema is not None:
            raise RequestError(f"{field} needs the type json_schema, not {self.type}.", field)
        return self


class StructuredOutputs(_Closed):
    """vLLM's field."""

    json_: str | dict[str, Any] | None = Field(None, alias="json")
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    json_object: Flag | None = None


class FormFields(BaseModel):
    """The fields of a body that say something of the answer's form."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None

    @property
    def form(self) -> Form | None:
        """Raises `RequestError` if several are asked for, or none where one should be."""
        forms = list(self._forms())
        if len(forms) > 1:
            raise RequestError(
                f"{forms[0].param} and {forms[1].param} exclude each other: "
                "an answer has one form.",
                forms[1].param,
            )
        if not forms and self.structured_outputs is not None:
            raise RequestError(
                "structured_outputs must have one of json, regex, choice, grammar and json_object.",
                "structured_outputs",
            )
        return forms[0] if forms else None

    @model_validator(mode="after")
    def _check_form(self) -> FormFields:
        _ = self.form
        return self

    def _forms(self) -> Iterator[Form]:
        wish = self.response_format
        if wish is not None and wish.json_schema is not None:
            grammar = _of_json(wish.json_schema.schema_, "response_format")
            name = f"response_format {wish.json_schema.name!r}"
            yield Form(grammar, "response_format", name)
        elif wish is not None and wish.type == "json_object":
            yield Form(_ANY_OBJECT, "response_format", "response_format")
        for name in ("json", "regex", "choice", "grammar"):
            yield from _form(f"guided_{name}", name, getattr(self, f"guided_{name}"))
        if self.structured_outputs is not None:
            inner = self.structured_outputs.model_dump(by_alias=True)
            for name, value in inner.items():
                yield from _form(f"structured_outputs.{name}", name, value)


async def check_form(engine: Engine, form: Form | None) -> None:
    """Compiles the grammar, beside the event loop. Raises `RequestError` if that cannot be done."""
    if form is None:
        return
    try:
        await asyncio.to_thread(engine.check_grammar, form.grammar)
    except RequestError as error:
        noun = _NOUNS[form.grammar.kind]
        raise RequestError(
            f"Invalid {noun} for {form.name}: {error.message}", form.param
        ) from error


def _form(param: str, name: str, value: Any) -> Iterator[Form]:
    """Of a field that may be unset."""
    if value is not None and value is not False:
        yield Form(_grammar(name, value, param), param, param)


def _grammar(name: str, value: Any, param: str) -> Grammar:
    match name:
        case "json":
            return _of_json(value, param)
        case "regex":
            return Grammar("regex", value)
        case "choice":
            return Grammar("choice", json.dumps(value, ensure_ascii=False))
        case "grammar":
            return Grammar("gbnf", value)  # or Lark: whichever it is
        case _:
            return _ANY_OBJECT


def _of_json(schema: str | dict[str, Any], param: str) -> Grammar:
    if isinstance(schema, str):
        return Grammar("json_schema", schema)
    try:
        return Grammar("json_schema", json.dumps(schema))
    except RecursionError as error:
        raise RequestError(f"{param} is nested too deeply.", param) from error
