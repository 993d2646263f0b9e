"""The bodies of answers, as OpenAI shapes them. Fields that OpenAI does not know come last.

Answers are dumped with `exclude_unset`: a field that is null in OpenAI's answer is set to None, and
a field that is absent there is left unset, so only fields that may be absent have a default.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from cast_server.api.step_traces import SpeculationTrace

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(BaseModel):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    """Where the answer's tokens came from; the last two only where a prediction was sent.

    Accepted: tokens of the answer that the prediction had offered. Rejected: those it offered in
    vain. They are no part of `completion_tokens`, and one that is offered again counts again.
    """

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(BaseModel):
    """Tokens read and written; each prompt counts once, however many answers it got."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class SourceMetrics(BaseModel):
    """What came of one source's guesses."""

    num_draft_tokens: int
    num_accepted_draft_tokens: int


class SpeculativeDecodingMetrics(BaseModel):
    """What drafting did, summed over the choices. `acceptance_histogram[k]`: steps that took k.

    The first seven are vLLM's. `per_step_…` are there if they were asked for and there is one
    choice; `sources` tells of those that guessed anything.

    What was expected stands beside what came: accepted draft tokens, and seconds of the steps that
    the request decoded in, from their beginning until the tokens were chosen.
    """

    mean_acceptance_length: float | None
    draft_acceptance_rate: float | None
    acceptance_histogram: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int
    policy: str
    sources: dict[str, SourceMetrics]
    num_expected_draft_tokens: float
    predicted_seconds: float
    seconds: float
    per_step_accepted: list[int] = []
    per_step_drafted: list[int] = []


class Metrics(BaseModel):
    """What the engine measured while it answered; times are absent if it told none.

    Until the first step and the first token from the request's arrival, from there to the last
    token; between the tokens of a choice; tokens of all choices since the first step.
    """

    speculative_decoding: SpeculativeDecodingMetrics
    queue_time_ms: float | None = None
    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None
    mean_itl_ms: float | None = None
    tokens_per_second: float | None = None


class TopLogprob(BaseModel):
    """A token that might have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """A token that was chosen, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """One entry a token."""

    content: list[ChatTokenLogprob]
    refusal: None


class CompletionLogprobs(BaseModel):
    """Four lists of one length, an entry a token; `text_offset` counts characters. Nothing is told
    of a text's very first token, as nothing comes before it."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class FunctionCall(BaseModel):
    """A function and its arguments, an object in JSON as text."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call that the model wants to be made."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class PromptLogprob(BaseModel):
    """How likely a token was where the prompt has one; rank 1 is the likeliest."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]  # by token id; null for the first token


class AssistantMessage(BaseModel):
    """What the model said. The content is null if it only called functions."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] | None = None


class FunctionDelta(BaseModel):
    """The name comes once, arguments piece by piece."""

    name: str | None = None
    arguments: str


class ToolCallDelta(BaseModel):
    """What a chunk adds to the call of this index; only the first has an id."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(BaseModel):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class _Choice(BaseModel):
    index: int
    finish_reason: FinishReason | None
    stop_reason: int | str | None


class ChatChoice(_Choice):
    """One answer."""

    message: AssistantMessage
    logprobs: ChatLogprobs | None


class ChatChunkChoice(_Choice):
    """News of one answer."""

    delta: Delta
    logprobs: ChatLogprobs | None


class CompletionChoice(_Choice):
    """One continuation, or news of it in a stream."""

    text: str
    logprobs: CompletionLogprobs | None
    prompt_logprobs: PromptLogprobs | None = None


class _Answer(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage | None = None
    metrics: Metrics | None = None
    speculation: SpeculationTrace | None = None


class ChatCompletion(_Answer):
    """The answer of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    prompt_logprobs: PromptLogprobs | None = None


class ChatCompletionChunk(_Answer):
    """One event of a streamed /v1/chat/completions."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]


class Completion(_Answer):
    """The answer of /v1/completions, and each event of it when streamed."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class Model(BaseModel):
    """An entry of /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["castserve"] = "castserve"
    max_model_len: int


class ModelList(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """The answer of /health: "ok" comes with a 200, all else with a 503."""

    status: Literal["ok", "loading", "draining"]


class Version(BaseModel):
    """The answer of /version."""

    version: str


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's four fields."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every failure."""

    error: ErrorDetail
