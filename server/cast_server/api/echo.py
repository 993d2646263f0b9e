"""Prompts given back before their continuations, as clients want that score texts."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cast_server.api.fields import TokenIds
from cast_server.api.token_text import TokenText
from cast_server.engine.request import TokenLogprob


@dataclass(frozen=True, slots=True)
class EchoedToken:
    """What a token adds to the text, and how likely it was; None for the first of a prompt."""

    text: str
    logprob: TokenLogprob | None


class Echo:
    """One choice's prompt, as far as it has been given back. `pieces` of its tokens join to it.

    num_top: how many of the likeliest tokens to tell at each.
    """

    def __init__(self, pieces: Sequence[str], num_top: int | None) -> None:
        self.text = "".join(pieces)
        self._pieces = iter(pieces)
        self._num_top = num_top

    def take(self, logprobs: Iterable[TokenLogprob | None]) -> list[EchoedToken]:
        """The tokens that come next, one for each entry; nothing if none are to be told."""
        if self._num_top is None:
            return []
        return [EchoedToken(next(self._pieces), self._cut(one)) for one in logprobs]

    def _cut(self, logprob: TokenLogprob | None) -> TokenLogprob | None:
        return logprob and replace(logprob, top=logprob.top[: self._num_top])


def prompt_pieces(
    tokenizer: Any, texts: TokenText, prompt: str | TokenIds, token_ids: TokenIds
) -> list[str]:
    """What each token adds to the prompt. Slow for long texts: to be called off the event loop."""
    if isinstance(prompt, str):
        return list(_pieces_of_text(tokenizer, prompt))
    return list(_pieces_of_ids(texts, token_ids))


def _pieces_of_text(tokenizer: Any, prompt: str) -> Iterator[str]:
    """Cuts the prompt at its tokens; those that the tokenizer adds to it, such as <s>, are "".

    Where tokens share a character, it goes to the last of them.
    """
    spans: list[tuple[int, int]] = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    begins = [begin for begin, end in spans if begin < end]
    begins.append(len(prompt))
    cut = number = 0
    for begin, end in spans:
        last = cut
        if begin < end:
            number += 1
            following = begins[number]
            is_last = number == len(begins) - 1
            cut = len(prompt) if is_last else max(cut, min(end, following))
        yield prompt[last:cut]


def _pieces_of_ids(texts: TokenText, token_ids: TokenIds) -> Iterator[str]:
    """A token that ends inside a character adds "", and the character comes with the last of it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for place, token_id in enumerate(token_ids, start=1):
        yield decoder.decode(texts.bytes_of(token_id), final=place == len(token_ids))
