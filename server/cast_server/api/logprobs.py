"""Log-probabilities in the two shapes that OpenAI has for them, and vLLM's for prompts."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from cast_server.api.echo import EchoedToken
from cast_server.api.responses import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
)
from cast_server.api.token_text import TokenText
from cast_server.engine.request import TokenLogprob

# JSON knows no infinity; OpenAI and others write this for a token that could not come.
_LOWEST = -9999.0


def chat_logprobs(tokens: Iterable[TokenLogprob], texts: TokenText) -> ChatLogprobs:
    """One entry a token. `bytes` are exact even where `token` holds part of a character."""
    return ChatLogprobs(content=[_chat_entry(token, texts) for token in tokens], refusal=None)


def _chat_entry(token: TokenLogprob, texts: TokenText) -> ChatTokenLogprob:
    return ChatTokenLogprob(
        **_alternative(token.token_id, token.logprob, texts).model_dump(),
        top_logprobs=[_alternative(token_id, logprob, texts) for token_id, logprob in token.top],
    )


def _alternative(token_id: int, logprob: float, texts: TokenText) -> TopLogprob:
    data = texts.bytes_of(token_id)
    return TopLogprob(
        token=data.decode(errors="replace"), logprob=_finite(logprob), bytes=list(data)
    )


class CompletionLogprobWriter:
    """Writes the logprobs of one choice, all at once or chunk by chunk.

    `tokens` joined give the text: a token that ends inside a character is written as "", and the
    character goes to the token that completes it.
    """

    def __init__(self, texts: TokenText) -> None:
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def write(
        self,
        tokens: Sequence[TokenLogprob],
        *,
        is_last: bool,
        echoed: Iterable[EchoedToken] = (),
    ) -> CompletionLogprobs:
        """Echoed tokens come first, in the words of the prompt."""
        written = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for one in echoed:
            self._add(written, one.text, one.logprob)
        for i, token in enumerate(tokens):
            data = self._texts.bytes_of(token.token_id)
            text = self._decoder.decode(data, is_last and i == len(tokens) - 1)
            self._add(written, text, token)
        return written

    def _add(self, written: CompletionLogprobs, text: str, token: TokenLogprob | None) -> None:
        written.tokens.append(text)
        written.token_logprobs.append(None if token is None else _finite(token.logprob))
        written.top_logprobs.append(None if token is None else self._alternatives(token, text))
        written.text_offset.append(self._offset)
        self._offset += len(text)

    def _alternatives(self, chosen: TokenLogprob, text: str) -> dict[str, float]:
        """The likeliest tokens and the chosen one, by text; of equal texts the likelier counts."""
        alternatives: dict[str, float] = {}
        for token_id, logprob in (*chosen.top, (chosen.token_id, chosen.logprob)):
            is_chosen = token_id == chosen.token_id
            name = text if is_chosen else self._texts.bytes_of(token_id).decode(errors="replace")
            alternatives[name] = max(_finite(logprob), alternatives.get(name, _LOWEST))
        return alternatives


def prompt_logprobs(
    tokens: Iterable[TokenLogprob], num_top: int, texts: TokenText
) -> PromptLogprobs:
    """An entry for each token of a prompt: its own log-probability and those of the likeliest."""
    return [None, *(_prompt_entry(token, num_top, texts) for token in tokens)]


def _prompt_entry(token: TokenLogprob, num_top: int, texts: TokenText) -> dict[str, PromptLogprob]:
    ranked = [(*pair, rank) for rank, pair in enumerate(token.top[:num_top], start=1)]
    return {
        str(token_id): PromptLogprob(
            logprob=_finite(logprob),
            rank=rank,
            decoded_token=texts.bytes_of(token_id).decode(errors="replace"),
        )
        for token_id, logprob, rank in [*ranked, (token.token_id, token.logprob, token.rank)]
    }


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST) if logprob == logprob else _LOWEST  # NaN is unlike itself
