"""The bodies of tokenization, as vLLM shapes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, model_validator

from cast_server.api.fields import Boolean, Fields, Integer
from cast_server.api.protocol import ChatMessage
from cast_server.api.refused_fields import refuse_unsupported
from cast_server.errors import RequestError


class TokenizeRequest(Fields):
    """The body of /tokenize: a text or a conversation. Special tokens are added to texts, unless
    told otherwise; templates of conversations write their own."""

    model: str | None = None
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = Field(None, min_length=1)
    add_special_tokens: Boolean | None = None
    add_generation_prompt: Boolean = True
    return_token_strs: Boolean = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        if isinstance(data, dict):
            refuse_unsupported(data)
            if data.get("tools"):
                raise RequestError("tools is not supported in /tokenize.", "tools")
        return data

    @model_validator(mode="after")
    def _check_is_one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("either prompt or messages must be given, not both.", "prompt")
        return self


class Tokenized(BaseModel):
    """The answer of /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Fields):
    """The body of /detokenize."""

    model: str | None = None
    tokens: tuple[Integer, ...]


class Detokenized(BaseModel):
    """The answer of /detokenize; special tokens are written by their names."""

    prompt: str


class AddedToken(BaseModel):
    """A token that the tokenizer finds before it cuts the rest of a text up."""

    content: str
    special: bool


class TokenizerInfo(BaseModel):
    """The answer of /tokenizer_info: what tokenizer_config.json says, without names of files."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
    added_tokens_decoder: dict[str, AddedToken]
