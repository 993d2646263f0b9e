"""What one policy did with one batch: the records that the file of a run consists of."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["near tie", "bug", "not judged"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Times(_Record):
    """Of the requests of a batch, in seconds. `e2el` is from the begin to a request's last token.

    `itl` holds (seconds, how many tokens): a step that brings n tokens after a gap brings each of
    them after the n-th part of it, so that the mean over tokens is the time per token. `tpot` has
    no entry for an answer of one token.
    """

    ttft: tuple[float, ...]
    tpot: tuple[float, ...]
    e2el: tuple[float, ...]
    itl: tuple[tuple[float, int], ...]


class Decoding(_Record):
    """Sums over the steps that only decoded, in seconds and draft tokens.

    `histogram[k]` counts the verifications that accepted k draft tokens, over all requests;
    `errors` are |predicted - actual| / actual, step by step. `full_tokens` and `full_seconds` are
    of steps in which no request had ended yet.
    """

    steps: int = 0
    seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    predicted_seconds: float = 0.0
    drafted: int = 0
    expected: float = 0.0
    accepted: int = 0
    full_tokens: int = 0
    full_seconds: float = 0.0
    histogram: tuple[int, ...] = ()
    errors: tuple[float, ...] = ()

    @property
    def full_speed(self) -> float:
        """Tokens a second while the batch was full; 0 if no step only decoded."""
        return self.full_tokens / self.full_seconds if self.full_seconds else 0.0


class Difference(_Record):
    """Where an output first is not that of `off`; a token is None where that output has ended.

    `margin` is that of both tokens' log-probabilities, None if it was not or cannot be told.
    """

    request: int
    prompt: int
    position: int
    plain_token: int | None
    token: int | None
    margin: float | None
    verdict: Verdict


class Detail(_Record):
    """Of every request: its token ids, and (seconds since the begin, tokens) of all its news."""

    outputs: tuple[tuple[int, ...], ...]
    arrivals: tuple[tuple[tuple[float, int], ...], ...]


class Iteration(_Record):
    """`latency` is from the begin to the last token of the batch; `prompts` are its prompts'
    numbers, `energy` joules."""

    policy: str
    batch_size: int
    round: int
    latency: float
    num_tokens: int
    prompts: tuple[int, ...]
    times: Times
    decoding: Decoding
    energy: float | None
    differences: tuple[Difference, ...] = ()
    detail: Detail | None = None

    @property
    def speed(self) -> float:
        """Tokens a second, prefill and all."""
        return self.num_tokens / self.latency

    @property
    def request_speed(self) -> float:
        """Answers a second that the mean request sees: one over its mean latency."""
        return len(self.times.e2el) / sum(self.times.e2el)
