"""What crosses the engine's queues: requests in, outputs out. All of it is frozen and picklable."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cast_server.engine.grammar import Grammar
from cast_server.engine.timings import Timings
from cast_server.engine.trace import StepTrace
from cast_server.errors import RequestError

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when to stop. Names and meanings are those of OpenAI and vLLM.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 switch the filters off.
    `logprobs` is the number of alternatives reported beside each chosen token; None: no report.
    `grammar`: what the answer is held to; it has the last word, also over `min_tokens`.
    `prompt_logprobs` is the same for the prompt's own tokens; with it max_tokens may be 0, and the
    request ends when its prompt is read.
    Penalties count generated tokens (presence, frequency) or prompt and generated (repetition).

    Raises `RequestError` with the offending field and value.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    grammar: Grammar | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if name == "max_tokens" and value == 0 and self.prompt_logprobs is not None:
                continue
            if not low <= value <= high:  # NaN fails every comparison
                raise RequestError(f"{name} must be between {low} and {high}, got {value}.", name)
        if self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({self.max_tokens}).",
                "min_tokens",
            )
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(self, name)
            if count is not None and not 0 <= count <= MAX_LOGPROBS:
                raise RequestError(
                    f"at most {MAX_LOGPROBS} top logprobs can be asked for, got {count}.", name
                )
        for token_id, bias in self.logit_bias.items():
            if not -100 <= bias <= 100:
                raise RequestError(
                    f"logit_bias of token {token_id} must be between -100 and 100, got {bias}.",
                    "logit_bias",
                )
        if any(not stop for stop in self.stop):
            raise RequestError("stop must not contain an empty string.", "stop")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return bool(
            self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0
        )


MAX_LOGPROBS = 20
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 1, 2**31),
    ("min_tokens", 0, 2**31),
    ("temperature", 0.0, 100.0),
    ("top_p", 1e-9, 1.0),
    ("top_k", 0, 2**31),
    ("min_p", 0.0, 1.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("repetition_penalty", 1e-3, 1e3),
)


@dataclass(frozen=True, slots=True)
class SpeculationParams:
    """A request's own wish for speculation; None leaves it to the server.

    `weight`: what a token of it is worth beside another request's, where they compete for rows.
    `trace`: outputs tell what each step drafted and what became of it.
    `per_step`: the statistics are to list the steps one by one.
    """

    policy: str | None = None
    max_draft_tokens: int | None = None
    weight: float = 1.0
    trace: bool = False
    per_step: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate. `seed` is always set here: position-keyed noise needs one.

    `owner` is an opaque name for who sent it, such as the id of an API key; "" for nobody known.
    What is learned from one owner's requests helps no other's.
    is_background: gets a share of the time that others leave, or all of it where there are none.
    deadline: `time.monotonic()` from which on nobody wants the answer any more.
    `prediction`: tokens that the output is expected to resemble; they are drafted, never forced.
    """

    id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    speculation: SpeculationParams = SpeculationParams()
    arrival_time: float = field(default_factory=time.monotonic)
    owner: str = ""
    is_background: bool = False
    deadline: float | None = None
    prediction: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability (natural) of a chosen token under the model's own, unprocessed distribution.

    `top` holds the most likely (token id, log-probability) pairs in falling order. `rank` is 1 for
    the likeliest token of all; it is told of a prompt's tokens only, else 0.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class SpeculationStats:
    """What drafting did for one request.

    A step is one target pass in which the request decoded; `histogram[k]` counts the steps that
    accepted k draft tokens. Expected and accepted draft tokens, predicted and actual seconds of
    those steps (until the tokens were chosen) stand side by side. `policy` decided how far to
    draft, at most `num_spec_tokens` a step. `drafted_by` and `accepted_by` count draft tokens by
    their sources' numbers; behind a stop none is counted as accepted there. `per_step` has the
    draft tokens and the accepted ones of each step, once the request has ended, if it asked.
    """

    num_spec_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    histogram: tuple[int, ...] = (0,)
    num_expected_draft_tokens: float = 0.0
    predicted_seconds: float = 0.0
    seconds: float = 0.0
    policy: str = "off"
    num_spec_tokens: int = 0
    drafted_by: tuple[int, ...] = ()
    accepted_by: tuple[int, ...] = ()
    per_step: tuple[tuple[int, int], ...] = ()

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens committed a decoding step, the bonus token included; NaN before the first step."""
        if not self.num_spec_steps:
            return math.nan
        return 1.0 + self.num_accepted_draft_tokens / self.num_spec_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """News of one request after one step. `text` and `new_token_ids` are what this step added.

    `text` may lag behind the tokens: it holds back half characters and possible stop strings.
    The last output of a request has a `finish_reason` and, if it ever was in the engine, `timings`;
    `speculation` and counts are complete. `steps` are empty unless the request asked for traces.
    `prompt_logprobs` go on where those of the output before ended, from the prompt's second token.
    """

    request_id: str
    new_token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: RequestError | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    speculation: SpeculationStats = SpeculationStats()
    timings: Timings | None = None
    steps: tuple[StepTrace, ...] = ()
