"""Texts as evaluators take them, and what all results about a text have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from torch import Tensor

from cast_server.errors import ContextLengthError, RequestError
from cast_server.evaluators.base import Params
from cast_server.evaluators.subject import Layer, Subject

LayerParam = Annotated[int, Field(ge=0)] | Literal["last_normed"]


class TextParams(Params):
    """Of everything that reads texts."""

    truncate: Literal["error", "right"] = Field(
        "error",
        description="What becomes of a text that is longer than the model's context: the item "
        "fails, or the text is cut at its end and the item says so.",
    )


class LayerParams(TextParams):
    """Of what reads one layer of a text."""

    layer: LayerParam = Field(
        "last_normed",
        description="Hidden states behind this many layers (0: the embeddings), or behind the "
        "final norm.",
    )
    drop_first: int = Field(
        0,
        ge=0,
        le=4096,
        description="Tokens at the beginning that do not count: a first token that all others "
        "attend to can be a hundred times as long as they are in middle layers.",
    )


class TextItem(BaseModel):
    """What was found about one text."""

    index: int = Field(ge=0, description="Which input this is, counted from 0.")
    status: Literal["ok", "undefined"] = Field(
        description="undefined: the measure does not exist for this text; its fields are null."
    )
    reason: str | None = Field(description="Why it is undefined, as a word for machines.")
    num_tokens: int = Field(ge=0, description="Tokens that were read, special ones included.")
    truncated: bool = Field(description="Was the text cut at its end?")


class Caution(BaseModel):
    """Why a result may not mean what it seems to."""

    code: str = Field(description="A word for machines.")
    message: str = Field(description="A sentence for people.")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text that fits the model."""

    ids: list[int]
    is_truncated: bool


def require_texts(inputs: Sequence[str]) -> None:
    """Raises RequestError if there are none."""
    if not inputs:
        raise RequestError("input must hold at least one text.", "input")


def tokens_of(inputs: Sequence[str], index: int, params: TextParams, subject: Subject) -> Tokens:
    """Raises ContextLengthError for a text that does not fit and must not be cut."""
    ids = subject.tokenize(inputs[index])
    most = subject.max_length
    if len(ids) <= most:
        return Tokens(ids, False)
    if params.truncate == "right":
        return Tokens(ids[:most], True)
    raise ContextLengthError(
        f"input.{index} has {len(ids)} tokens, this model takes {most}: shorten it, or set "
        'params.truncate to "right".',
        f"input.{index}",
    )


def check_layers(layers: Sequence[Layer], subject: Subject, param: str) -> None:
    """Raises RequestError for a layer that the model does not have."""
    for layer in layers:
        if isinstance(layer, int) and layer > subject.num_layers:
            raise RequestError(
                f"{param} asks for layer {layer}, this model has 0 to {subject.num_layers} and "
                '"last_normed".',
                param,
            )


async def layer_of(token_ids: Sequence[int], params: LayerParams, subject: Subject) -> Tensor:
    """Hidden states float32 [N, E] of the layer asked for, without the first tokens if so asked.

    Raises RequestError for a layer that the model does not have.
    """
    check_layers([params.layer], subject, "params.layer")
    reading = await subject.read(token_ids, [params.layer])
    return reading.hidden[params.layer][params.drop_first :]
