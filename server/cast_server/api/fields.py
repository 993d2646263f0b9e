"""Types of fields: how they are read, and what is wrong with them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from cast_server.errors import RequestError

MAX_COPIES = 128
MAX_CHOICES = 1024
MAX_INPUTS = 2048  # of embeddings, which are read and not continued
MAX_STOPS, MAX_STOP_CHARS = 64, 1000
MAX_TOKEN_RULES = 4096  # of one kind

# Python takes True for 1 and pydantic takes "1" for 1. OpenAI does neither.
Integer = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Boolean = Annotated[bool, Field(strict=True)]
TokenIds = tuple[int, ...]
_NULL: Final = {"type": "null"}


def _read_stop(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        # they are looked for after every token
        if len(value) > MAX_STOPS or max(map(len, value), default=0) > MAX_STOP_CHARS:
            raise RequestError(
                f"stop takes at most {MAX_STOPS} strings of up to {MAX_STOP_CHARS} characters.",
                "stop",
            )
        return tuple(value)
    raise RequestError("stop must be a string or an array of strings.", "stop")


def _read_logit_bias(value: object) -> dict[int, float]:
    if not isinstance(value, dict):
        raise RequestError("logit_bias must be an object of token ids and numbers.", "logit_bias")
    check_rules(len(value), "logit_bias")
    return {_read_token_id(key): _read_bias(key, bias) for key, bias in value.items()}


def check_rules(count: int, name: str) -> None:
    """Raises `RequestError` for more tokens than a field may name."""
    if count > MAX_TOKEN_RULES:
        raise RequestError(f"{name} takes at most {MAX_TOKEN_RULES} tokens, got {count}.", name)


def _read_token_id(key: str) -> int:
    # int() would also take "+1", " 1", "1_0" and digits of other scripts
    if key.isascii() and key.isdigit() and len(key) <= 10:
        return int(key)
    raise RequestError(f"logit_bias has the key {key[:40]!r}, which is no token id.", "logit_bias")


def _read_bias(key: str, bias: object) -> float:
    if isinstance(bias, int | float) and not isinstance(bias, bool) and -100 <= bias <= 100:
        return float(bias)
    raise RequestError(
        f"logit_bias of token {key} must be a number between -100 and 100.", "logit_bias"
    )


def _read_prompts(
    value: object, name: str = "prompt", most: int = MAX_CHOICES
) -> tuple[str | TokenIds, ...]:
    """One prompt or many, each a string or token ids, as a tuple of prompts."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return (tuple(value),)
        if len(value) > most:
            raise RequestError(
                f"{name}: at most {most} texts can be sent at once, got {len(value)}.", name
            )
        return tuple(_read_prompt(item, name) for item in value)
    raise RequestError(
        f"{name} must be a string, an array of strings, an array of token ids or an array of "
        "arrays of token ids, and must not be empty.",
        name,
    )


def _read_prompt(item: object, name: str) -> str | TokenIds:
    if isinstance(item, str):
        return item
    if isinstance(item, list) and all(type(token_id) is int for token_id in item):
        return tuple(item)
    raise RequestError(f"each {name} must be a string or an array of token ids.", name)


def _join_parts(value: object) -> object:
    return "\n".join(map(_text_of, value)) if isinstance(value, list) else value


def _text_of(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise ValueError(
        'may only have parts of the form {"type": "text", "text": "…"}, as the model reads text'
    )


Stop = Annotated[
    tuple[str, ...], PlainValidator(_read_stop, json_schema_input_type=str | list[str])
]
LogitBias = Annotated[
    dict[int, float],
    PlainValidator(_read_logit_bias, json_schema_input_type=dict[str, float]),
]
_AnyPrompts = str | list[str] | list[int] | list[list[int]]
Prompts = Annotated[
    tuple[str | TokenIds, ...],
    PlainValidator(_read_prompts, json_schema_input_type=_AnyPrompts),
]
Inputs = Annotated[
    tuple[str | TokenIds, ...],
    PlainValidator(
        partial(_read_prompts, name="input", most=MAX_INPUTS), json_schema_input_type=_AnyPrompts
    ),
]
Content = Annotated[
    str | None,
    BeforeValidator(_join_parts, json_schema_input_type=str | list[dict[str, str]] | None),
]


def _allow_nulls(schema: dict[str, Any]) -> None:
    """Says in the schema of an object what `Fields` does with nulls."""
    for name, field in schema.get("properties", {}).items():
        kinds = field.get("anyOf", ())
        if name not in schema.get("required", ()) and _NULL not in kinds:
            about = {key: field.pop(key) for key in ("title", "default") if key in field}
            schema["properties"][name] = {"anyOf": [*(kinds or [field]), _NULL], **about}


class Fields(BaseModel):
    """A JSON object in which null means that the field is left out."""

    model_config = ConfigDict(frozen=True, json_schema_extra=_allow_nulls)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}
