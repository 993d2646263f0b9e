"""Log-probabilities in the two shapes that OpenAI has for them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from cast_server.api.responses import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
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

    def write(self, tokens: Sequence[TokenLogprob], *, is_last: bool) -> CompletionLogprobs:
        written = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for i, token in enumerate(tokens):
            data = self._texts.bytes_of(token.token_id)
            text = self._decoder.decode(data, is_last and i == len(tokens) - 1)
            written.tokens.append(text)
            written.token_logprobs.append(_finite(token.logprob))
            written.top_logprobs.append(self._alternatives(token, text))
            written.text_offset.append(self._offset)
            self._offset += len(text)
        return written

    def _alternatives(self, chosen: TokenLogprob, text: str) -> dict[str, float]:
        """The likeliest tokens and the chosen one, by text; of equal texts the likelier counts."""
        alternatives: dict[str, float] = {}
        for token_id, logprob in (*chosen.top, (chosen.token_id, chosen.logprob)):
            is_chosen = token_id == chosen.token_id
            name = text if is_chosen else self._texts.bytes_of(token_id).decode(errors="replace")
            alternatives[name] = max(_finite(logprob), alternatives.get(name, _LOWEST))
        return alternatives


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST) if logprob == logprob else _LOWEST  # NaN is unlike itself
