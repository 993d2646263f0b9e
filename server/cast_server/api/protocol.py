"""The bodies of requests: OpenAI's fields, vLLM's sampling fields, and `speculation`.

Unknown fields are ignored, as clients send many that have no bearing here. Fields that are known,
not supported and would change the answer are refused (`refused_fields`). A null field has its
default.
Ranges of sampling fields are checked once, by `SamplingParams`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from cast_server.api.fields import (
    MAX_COPIES,
    Boolean,
    Content,
    Fields,
    Integer,
    LogitBias,
    Number,
    Prompts,
    Stop,
    check_rules,
)
from cast_server.api.prediction import Prediction
from cast_server.api.refused_fields import refuse_chat_fields, refuse_in_chats, refuse_unsupported
from cast_server.api.response_format import FormFields
from cast_server.api.tools.definitions import Choice, Offer, Tools, offer_of
from cast_server.api.tools.history import PastCall
from cast_server.engine.request import MAX_LOGPROBS
from cast_server.errors import RequestError


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
        check_rules(len(value), "stop_token_ids")
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
