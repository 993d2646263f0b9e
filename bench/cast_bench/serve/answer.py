"""An answer as it came: when each chunk did, with how many tokens, and what the server told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

_TEXTS: Final = ("content", "reasoning_content", "reasoning")


class StreamError(Exception):
    """The server told of a failure in the middle of its answer."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """Drafts of one answer. llama.cpp does not tell the steps."""

    num_draft_tokens: int
    num_accepted_draft_tokens: int
    num_spec_steps: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no whole answer: a name to count by, and what was said."""

    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One request. `due` and `sent` are seconds after the start of the run, others after sending.

    `chunk_seconds` are of chunks that brought tokens, `chunk_tokens` how many, or None where the
    server does not tell. Counts that it does not tell are None.
    """

    index: int
    due: float
    sent: float
    seconds: float
    chunk_seconds: Sequence[float] = ()
    chunk_tokens: Sequence[int] | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    speculation: Speculation | None = None
    failure: Failure | None = None

    @property
    def tokens(self) -> int:
        """As the server counts them; chunks if it does not."""
        told = self.completion_tokens
        return len(self.chunk_seconds) if told is None else told

    @property
    def ttft(self) -> float:
        """Seconds until the first token."""
        return self.chunk_seconds[0]

    @property
    def tpot(self) -> float | None:
        """Seconds per token behind the first. None where there is only one."""
        return (self.seconds - self.ttft) / (self.tokens - 1) if self.tokens > 1 else None

    @property
    def icl(self) -> list[float]:
        """Seconds between chunks."""
        return [after - before for before, after in pairwise(self.chunk_seconds)]

    @property
    def itl(self) -> list[float]:
        """Seconds between tokens: tokens that come together share the time they took.

        Those of the first chunk are left out, as their time is the prompt's too. Between chunks
        where the server does not tell how many tokens they brought.
        """
        counts = self.chunk_tokens
        if counts is None:
            return self.icl
        gaps = zip(self.icl, counts[1:], strict=True)
        return [gap / count for gap, count in gaps for _ in range(count)]


class AnswerReader:
    """Takes in a stream's events, each with its seconds after sending."""

    def __init__(self) -> None:
        self.is_whole = False
        self._seconds: list[float] = []
        self._counts: list[int] = []  # of the same chunks, as long as the server tells
        self._total: int | None = 0  # None from the first chunk on with which it does not
        self._end = 0.0
        self._usage: Mapping[str, Any] = {}
        self._speculation: Speculation | None = None

    def read(self, event: Mapping[str, Any], now: float) -> None:
        """Raises `StreamError` if the event is about a failure."""
        if error := event.get("error"):
            raise StreamError(error.get("message") if isinstance(error, Mapping) else str(error))
        self._usage = event.get("usage") or self._usage
        self._speculation = _speculation(event) or self._speculation
        choices = event.get("choices") or ()
        if not choices:
            return
        self._end = now
        self.is_whole |= any(choice.get("finish_reason") for choice in choices)
        if self._brings_tokens(choices, _running_total(event)):
            self._seconds.append(now)

    def answer(self, index: int, due: float, sent: float) -> Answer:
        """The whole answer, so far as it came."""
        details = self._usage.get("prompt_tokens_details") or {}
        tokens = self._usage.get("completion_tokens")
        if not self._seconds and tokens:  # an answer of nothing but a stop token
            self._seconds, self._counts = [self._end], [tokens]
        return Answer(
            index=index,
            due=due,
            sent=sent,
            seconds=self._end,
            chunk_seconds=tuple(self._seconds),
            chunk_tokens=self._chunk_tokens(tokens),
            prompt_tokens=self._usage.get("prompt_tokens"),
            cached_tokens=details.get("cached_tokens"),
            completion_tokens=tokens,
            speculation=self._speculation,
        )

    def _brings_tokens(self, choices: Sequence[Mapping[str, Any]], total: int | None) -> bool:
        if total is None or self._total is None:  # a total at the end only is no running one
            brings = any(map(_text, choices))
            self._total = None if brings else self._total
            return brings
        if total <= self._total:
            return False
        self._counts.append(total - self._total)
        self._total = total
        return True

    def _chunk_tokens(self, tokens: int | None) -> tuple[int, ...] | None:
        if self._total is not None and self._counts:
            return tuple(self._counts)
        return (1,) * len(self._seconds) if tokens == len(self._seconds) else None


def _text(choice: Mapping[str, Any]) -> str:
    delta = choice.get("delta") or {}
    return choice.get("text") or "".join(delta.get(name) or "" for name in _TEXTS)


def _running_total(event: Mapping[str, Any]) -> int | None:
    """Tokens so far: of vLLM, SGLang and castserve in `usage`, of llama.cpp in `timings`."""
    usage, timings = event.get("usage") or {}, event.get("timings") or {}
    total: int | None = usage.get("completion_tokens", timings.get("predicted_n"))
    return total


def _speculation(event: Mapping[str, Any]) -> Speculation | None:
    told = (event.get("metrics") or {}).get("speculative_decoding")
    if told:
        names = ("num_draft_tokens", "num_accepted_draft_tokens", "num_spec_steps")
        drafted, accepted, steps = (told.get(name) for name in names)
        return Speculation(drafted or 0, accepted or 0, steps)
    timings = event.get("timings") or {}
    if "draft_n" in timings:
        return Speculation(timings["draft_n"], timings.get("draft_n_accepted", 0), None)
    return None
