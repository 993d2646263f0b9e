"""What a client expects the answer to be (OpenAI's Predicted Outputs).

It is a guess like any other: where the model agrees, answers come sooner, and no token of them
changes. So nothing is refused beside it that is possible without: several answers, logprobs,
penalties, limits.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from cast_server.errors import RequestError


def _read_content(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_text_of, value))
    raise RequestError(
        "prediction.content must be a string or an array of text parts.", "prediction.content"
    )


def _text_of(part: object) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RequestError(
        'prediction.content may only have parts of the form {"type": "text", "text": "…"}.',
        "prediction.content",
    )


class Prediction(BaseModel):
    """The field `prediction` of a body. Several parts are one text."""

    model_config = ConfigDict(frozen=True)

    type: Literal["content"]
    content: Annotated[
        str, BeforeValidator(_read_content, json_schema_input_type=str | list[dict[str, str]])
    ]

    @model_validator(mode="before")
    @classmethod
    def _check_is_object(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise RequestError(
                'prediction must be an object, {"type": "content", "content": "…"}.', "prediction"
            )
        return value


def prediction_tokens(tokenizer: Any, prediction: Prediction | None, most: int) -> tuple[int, ...]:
    """At most `most` tokens of it, as no answer is longer. Slow for long texts: to be called off
    the event loop. Raises `RequestError` for a text that cannot be encoded."""
    if prediction is None:
        return ()
    try:
        prediction.content.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            "prediction.content is not valid Unicode: it holds half of a surrogate pair.",
            "prediction.content",
        ) from error
    return tuple(tokenizer(prediction.content, add_special_tokens=False)["input_ids"][:most])
