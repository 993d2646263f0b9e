"""The bodies of requests: OpenAI's fields, vLLM's sampling fields, and `speculation`.

Unknown fields are ignored, as clients send many that have no bearing here. Fields that are known,
not supported and would change the answer are refused (`refused_fields`). A null field has its
default.
Ranges of sampling fields are checked once, by `SamplingParams`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    field_validator,
    model_validator,
)

from cast_server.api.prediction import Prediction
from cast_server.api.refused_fields import refuse_chat_fields, refuse_in_chats, refuse_unsupported
from cast_server.api.response_format import FormFields
from cast_server.api.tools.definitions import Choice, Offer, Tools, offer_of
from cast_server.api.tools.history import PastCall
from cast_server.engine.request import MAX_LOGPROBS
from cast_server.errors import RequestError

MAX_COPIES = 128
MAX_CHOICES = 1024
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
    _check_rules(len(value), "logit_bias")
    return {_read_token_id(key): _read_bias(key, bias) for key, bias in value.items()}


def _check_rules(count: int, name: str) -> None:
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


def _read_prompts(value: object, name: str = "prompt") -> tuple[str | TokenIds, ...]:
    """One prompt or many, each a string or token ids, as a tuple of prompts."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return (tuple(value),)
        if len(value) > MAX_CHOICES:
            raise RequestError(
                f"{name}: at most {MAX_CHOICES} texts can be sent at once, got {len(value)}.", name
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
    PlainValidator(partial(_read_prompts, name="input"), json_schema_input_type=_AnyPrompts),
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


class StreamOptions(Fields):
    """Options of a streamed answer. The second, vLLM's, tells the tokens so far in every chunk."""

    include_usage: Boolean = False
    continuous_usage_stats: Boolean = False


class Speculation(Fields):
    """A request's own wish for speculation; it changes speed, never tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str | None = None
    max_draft_tokens: Integer | None = Field(None, ge=0)
    weight: Number = Field(1.0, ge=0.01, le=100.0)
    trace: Boolean = False
    per_step: Boolean = False


class GenerationRequest(Fields, FormFields):
    """What both endpoints accept. `model` None stands for the served one."""

    model: str | None = None
    n: Integer = Field(1, ge=1, le=MAX_COPIES)
    stream: Boolean = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    speculation: Speculation = Speculation()
    prediction: Prediction | None = None
    max_tokens: Integer | None = Field(None, ge=1)
    min_tokens: Integer = 0
    temperature: Number = 1.0
    top_p: Number = 1.0
    top_k: Integer = 0
    min_p: Number = 0.0
    seed: Integer | None = Field(None, ge=-(2**63), lt=2**63)
    presence_penalty: Number = 0.0
    frequency_penalty: Number = 0.0
    repetition_penalty: Number = 1.0
    logit_bias: LogitBias = Field(default_factory=dict)
    stop: Stop = ()
    stop_token_ids: tuple[Integer, ...] = ()
    include_stop_str_in_output: Boolean = False
    ignore_eos: Boolean = False
    skip_special_tokens: Boolean = True
    timeout: Number | None = Field(None, gt=0)
    prompt_logprobs: Integer | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        if isinstance(data, dict):
            refuse_unsupported(data)
        return data

    @field_validator("stop_token_ids")
    @classmethod
    def _check_stop_token_ids(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        _check_rules(len(value), "stop_token_ids")
        return value

    @model_validator(mode="after")
    def _check_stream_options(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream to be true.", "stream_options")
        return self

    @model_validator(mode="after")
    def _check_prompt_logprobs(self) -> GenerationRequest:
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError(
                "prompt_logprobs comes with a whole answer only; leave stream out.",
                "prompt_logprobs",
            )
        return self

    @property
    def copies(self) -> int:
        """Answers to generate for each prompt."""
        return self.n

    @property
    def num_prompt_logprobs(self) -> int | None:
        """As `num_logprobs`, for the prompt's tokens."""
        return self.prompt_logprobs


class CompletionRequest(GenerationRequest):
    """The body of /v1/completions."""

    prompt: Prompts
    max_tokens: Integer | None = Field(None, ge=0)
    echo: Boolean = False
    best_of: Integer | None = Field(None, ge=1, le=MAX_COPIES)
    logprobs: Integer | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @model_validator(mode="before")
    @classmethod
    def _refuse_chat_fields(cls, data: Any) -> Any:
        if isinstance(data, dict):
            refuse_chat_fields(data)
        return data

    @field_validator("logprobs", mode="before")
    @classmethod
    def _explain_bool(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise RequestError(
                "logprobs must be an integer here, the number of alternatives to report; "
                "true and false belong to /v1/chat/completions.",
                "logprobs",
            )
        return value

    @model_validator(mode="after")
    def _check_best_of(self) -> CompletionRequest:
        if self.copies < self.n:
            raise RequestError(
                f"best_of ({self.best_of}) must not be below n ({self.n}).", "best_of"
            )
        if self.copies > self.n and self.stream:
            raise RequestError(
                "best_of cannot be above n in a stream, as the best are known at the end only.",
                "best_of",
            )
        return self

    @model_validator(mode="after")
    def _check_max_tokens(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise RequestError(
                "max_tokens must be at least 1, unless echo is true or prompt_logprobs is set, "
                "got 0.",
                "max_tokens",
            )
        return self

    @property
    def copies(self) -> int:
        return self.n if self.best_of is None else self.best_of

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to report beside each token; None reports no logprobs at all."""
        return 0 if self.logprobs is None and self.copies > self.n else self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        wanted = (
            self.prompt_logprobs,
            self.logprobs if self.echo else None,
            0 if self.max_tokens == 0 else None,  # something must be asked of the engine
        )
        return max((count for count in wanted if count is not None), default=None)


class ChatMessage(BaseModel):
    """One message of a conversation. Templates may use fields beyond these, so they are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    tool_calls: tuple[PastCall, ...] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _check_has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError("needs a content, as only an assistant's message may lack it")
        return self


class ChatCompletionRequest(GenerationRequest):
    """The body of /v1/chat/completions."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    max_completion_tokens: Integer | None = Field(None, ge=1)
    logprobs: Boolean = False
    top_logprobs: Integer = Field(0, ge=0, le=MAX_LOGPROBS)
    tools: Tools = ()
    tool_choice: Choice | None = None
    parallel_tool_calls: Boolean = True
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    add_generation_prompt: Boolean = True
    continue_final_message: Boolean = False

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_texts_have(cls, data: Any) -> Any:
        if isinstance(data, dict):
            refuse_in_chats(data)
        return data

    @field_validator("logprobs", mode="before")
    @classmethod
    def _explain_int(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            raise RequestError(
                "logprobs must be true or false here, and top_logprobs the number of alternatives "
                "to report; an integer belongs to /v1/completions.",
                "logprobs",
            )
        return value

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true.", "top_logprobs")
        return self

    @model_validator(mode="after")
    def _check_tools(self) -> ChatCompletionRequest:
        assert self.offer is not None  # it raises if the fields contradict each other
        return self

    @model_validator(mode="after")
    def _check_continued(self) -> ChatCompletionRequest:
        last = self.messages[-1]
        if self.continue_final_message and not (last.role == "assistant" and last.content):
            raise RequestError(
                "continue_final_message needs a last message of the assistant with content.",
                "continue_final_message",
            )
        return self

    @property
    def has_tools(self) -> bool:
        """Whether there is anything to tell the model of calls, past ones or coming ones."""
        return bool(self.tools) or any(message.tool_calls for message in self.messages)

    @property
    def offer(self) -> Offer:
        """The functions that the model may call; none if it must not."""
        return offer_of(self.tools, self.tool_choice, is_parallel=self.parallel_tool_calls)

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to report beside each token; None reports no logprobs at all."""
        return self.top_logprobs if self.logprobs else None
