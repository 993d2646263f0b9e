"""The bodies of /v1/embeddings, as OpenAI shapes them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, model_validator

from cast_server.api.fields import Fields, Inputs
from cast_server.errors import RequestError


class EmbeddingRequest(Fields):
    """One text or many, as strings or token ids."""

    model: str | None = None
    input: Inputs
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_dimensions(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("dimensions") is not None:
            raise RequestError(
                "dimensions is not supported: the vectors of this model cannot be cut short.",
                "dimensions",
            )
        return data


class Embedding(BaseModel):
    """A text's vector: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The answer of /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def encoded(vector: Sequence[float], form: Literal["float", "base64"]) -> list[float] | str:
    """As the client wants it."""
    if form == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
