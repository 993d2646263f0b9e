"""The model under test, as far as an evaluator may see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from torch import Tensor

from cast_server.errors import ContextLengthError, RequestError

# A layer by the number of layers before it (0: the embeddings), or the final norm's output.
Layer = int | Literal["last_normed"]

Message = Mapping[str, str]  # {"role": ..., "content": ...}


class Capability(StrEnum):
    """What not every subject can do; evaluators name what they need."""

    HIDDEN_STATES = "hidden_states"
    UNEMBEDDING = "unembedding"
    GENERATION = "generation"
    UNTRAINED_TWIN = "untrained_twin"
    DRAFT_HEAD = "draft_head"


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the model reads it.

    hidden: float32 [N, E] for each layer asked for. logprobs_P: float32 [N - 1], the natural
    log-probability of each token after the first, given those before it.
    """

    hidden: Mapping[Layer, Tensor]
    logprobs_P: Tensor


@dataclass(frozen=True, slots=True)
class Generation:
    """How an evaluator's texts are written. Temperature 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """One answer. finish_reason: "stop" or "length", as in the API."""

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Initialisation:
    """An untrained twin. `std`: the initializer_range, None for the one in the model's own
    configuration. `is_training`: dropout active, as in the official code of Diff-eRank; the seed
    then also fixes the dropout."""

    seed: int = 0
    std: float | None = None
    is_training: bool = False


class Subject(Protocol):
    """All methods may be called from many tasks of one event loop at once. They raise
    `RequestError` for what the caller did wrong (a text too long, an id out of the vocabulary).
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What makes results comparable: weights, tokenizer, dtype, engine version."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def max_length(self) -> int:
        """Most tokens of a text, or of prompt and answer together."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """With the special tokens that the tokenizer puts before a plain text."""
        ...

    async def read(self, token_ids: Sequence[int], layers: Sequence[Layer] = ()) -> Reading:
        """One pass over a text, never padded."""
        ...

    async def write(self, messages: Sequence[Message], how: Generation) -> Written:
        """An answer to a conversation, in the model's own chat template."""
        ...

    async def unembedding(self, token_ids: Sequence[int]) -> Tensor:
        """Rows of the output head, float32 [C, E]."""
        ...

    async def overlaps(self, token_ids: Sequence[int], depth: int) -> Tensor:
        """Expected acceptance of the draft head at each position of a text, by depth.

        float64 [depth, N]: sum over the vocabulary of min(p, q); NaN where the text ends before.
        p: the target's next-token distribution; q: the head's, drafting along the text itself.
        """
        ...

    def untrained(self, how: Initialisation) -> AbstractAsyncContextManager[Subject]:
        """The same architecture before training; its memory is freed on the way out."""
        ...


def check_length(subject: Subject, token_ids: Sequence[int]) -> None:
    """Raises `RequestError` for a text that the subject cannot read."""
    if not token_ids:
        raise RequestError("There is no token to read.", "input")
    if len(token_ids) > subject.max_length:
        raise ContextLengthError(
            f"A text has {len(token_ids)} tokens, but {subject.name} reads at most "
            f"{subject.max_length}. (context_length_exceeded)",
            "input",
        )
