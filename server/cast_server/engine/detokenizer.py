"""Tokens to text, one at a time: never half a character, never the beginning of a stop string."""

from __future__ import annotations

from typing import Any

from tokenizers.decoders import DecodeStream

from cast_server.engine.request import SamplingParams


class TextStream:
    """The text of one sequence, given out as soon as nothing can change it any more."""

    def __init__(self, tokenizer: Any, params: SamplingParams) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=params.skip_special_tokens)
        self._params = params
        self._token_ids: list[int] = []
        self._decoded = ""
        self._held = ""

    def push(self, token_id: int, may_stop: bool) -> tuple[str, str | None]:
        """The text that has become safe, and the stop string that ends the sequence, if any."""
        self._token_ids.append(token_id)
        piece = self._stream.step(self._backend, token_id)
        if not piece:
            return "", None
        self._decoded += piece
        if not self._params.stop:
            return piece, None
        searched_before = len(self._held)
        self._held += piece
        found = self._find_stop(searched_before) if may_stop else None
        if found is not None:
            begin, stop = found
            end = begin + len(stop) * self._params.include_stop_str_in_output
            text, self._held = self._held[:end], ""
            self._token_ids = []  # nothing is left to flush
            return text, stop
        keep = _overlap(self._held, self._params.stop)
        safe, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return safe, None

    def flush(self) -> str:
        """What was held back, at the end of the sequence; an unfinished character as U+FFFD."""
        text, self._held = self._held, ""
        if self._token_ids:
            skip = self._params.skip_special_tokens
            whole = self._tokenizer.decode(
                self._token_ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
            )
            if whole.startswith(self._decoded):
                text += whole[len(self._decoded) :]
        self._token_ids = []
        return text

    def _find_stop(self, searched_before: int) -> tuple[int, str] | None:
        """Where in the held text the stop string begins that ends first (then, begins first)."""
        found = [
            (begin + len(stop), begin, stop)
            for stop in self._params.stop
            if (begin := self._held.find(stop, max(0, searched_before - len(stop) + 1))) >= 0
        ]
        return min(found)[1:] if found else None


def _overlap(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that begins a stop string."""
    longest = min(len(text), max(map(len, stops)) - 1)
    for length in range(longest, 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops if len(stop) > length):
            return length
    return 0
