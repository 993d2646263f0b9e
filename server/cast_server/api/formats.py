"""The answers of the two endpoints, whole and in chunks. One object serves one HTTP request."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from cast_server.api.echo import Echo, EchoedToken
from cast_server.api.logprobs import CompletionLogprobWriter, chat_logprobs, prompt_logprobs
from cast_server.api.responses import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Delta,
    FinishReason,
)
from cast_server.api.token_text import TokenText
from cast_server.api.tools.reader import MessageReader, TextReader, message_of
from cast_server.engine.request import RequestOutput, TokenLogprob

Chunk = ChatCompletionChunk | Completion
Answer = ChatCompletion | Completion


@dataclass(frozen=True, slots=True)
class Header:
    """What is equal in all chunks of an answer."""

    id: str
    model: str
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True, slots=True)
class FinishedChoice:
    """All that a choice got from the engine."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    last_output: RequestOutput
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


class Format(Protocol):
    """How an endpoint words its answers."""

    def opening(self, num_choices: int) -> Sequence[Chunk]:
        """What a stream starts with."""

    def news(self, index: int, output: RequestOutput) -> Sequence[Chunk]:
        """What a choice has gained, if it is anything to speak of."""

    def ending(self, index: int, output: RequestOutput) -> Chunk:
        """Why a choice has ended."""

    def closing(self) -> Chunk:
        """A chunk about no choice, to carry the usage."""

    def answer(self, choices: Sequence[FinishedChoice]) -> Answer:
        """The whole answer at once."""
        ...


class ChatFormat:
    """The answers of /v1/chat/completions.

    num_read: how many of the likeliest tokens to tell at each of the prompt's, if any is told of.
    """

    def __init__(
        self,
        header: Header,
        texts: TokenText,
        *,
        with_logprobs: bool,
        make_reader: Callable[[], MessageReader] = TextReader,
        num_read: int | None = None,
    ) -> None:
        self._header = header
        self._texts = texts
        self._with_logprobs = with_logprobs
        self._readers = defaultdict[int, MessageReader](make_reader)
        self._num_read = num_read

    def opening(self, num_choices: int) -> list[Chunk]:
        # Clients append a role that comes twice, and expect choices to appear in their order.
        role = Delta(role="assistant", content="")
        return [self._chunk(self._news(index, role)) for index in range(num_choices)]

    def news(self, index: int, output: RequestOutput) -> list[Chunk]:
        is_last = output.finish_reason is not None
        deltas = self._readers[index].read(output.text, is_last=is_last)
        if output.logprobs and not deltas:  # their text is held back, they are not
            deltas = [Delta(content="")]
        news = [self._news(index, delta) for delta in deltas]
        if news:
            news[0].logprobs = self._logprobs(output.logprobs)
        return [self._chunk(choice) for choice in news]

    def ending(self, index: int, output: RequestOutput) -> Chunk:
        choice = self._news(index, Delta())
        choice.finish_reason, choice.stop_reason = self._chat_reasons(index, output)
        return self._chunk(choice)

    def closing(self) -> Chunk:
        return self._chunk()

    def answer(self, choices: Sequence[FinishedChoice]) -> Answer:
        answer = ChatCompletion(
            id=self._header.id,
            object="chat.completion",
            created=self._header.created,
            model=self._header.model,
            system_fingerprint=self._header.fingerprint,
            choices=[self._finished(index, choice) for index, choice in enumerate(choices)],
        )
        if self._num_read is not None:
            read = choices[0].prompt_logprobs
            answer.prompt_logprobs = prompt_logprobs(read, self._num_read, self._texts)
        return answer

    def _finished(self, index: int, choice: FinishedChoice) -> ChatChoice:
        message = message_of(self._readers[index].read(choice.text, is_last=True))
        finish_reason, stop_reason = self._chat_reasons(index, choice.last_output)
        return ChatChoice(
            index=index,
            message=message,
            logprobs=self._logprobs(choice.logprobs),
            finish_reason=finish_reason,
            stop_reason=stop_reason,
        )

    def _chat_reasons(
        self, index: int, output: RequestOutput
    ) -> tuple[FinishReason, int | str | None]:
        finish_reason, stop_reason = _reasons(output)
        if finish_reason == "stop" and self._readers[index].has_called:
            finish_reason = "tool_calls"
        return finish_reason, stop_reason

    def _news(self, index: int, delta: Delta) -> ChatChunkChoice:
        return ChatChunkChoice(
            index=index, delta=delta, logprobs=None, finish_reason=None, stop_reason=None
        )

    def _chunk(self, *choices: ChatChunkChoice) -> Chunk:
        return ChatCompletionChunk(
            id=self._header.id,
            object="chat.completion.chunk",
            created=self._header.created,
            model=self._header.model,
            system_fingerprint=self._header.fingerprint,
            choices=list(choices),
        )

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        return chat_logprobs(tokens, self._texts) if self._with_logprobs else None


class CompletionFormat:
    """The answers of /v1/completions, where a chunk looks like an answer.

    echoes: one for each choice, if prompts come first. num_read: as for chats.
    """

    def __init__(
        self,
        header: Header,
        texts: TokenText,
        *,
        with_logprobs: bool,
        num_read: int | None = None,
        echoes: Sequence[Echo] = (),
    ) -> None:
        self._header = header
        self._texts = texts
        self._with_logprobs = with_logprobs
        self._num_read = num_read
        self._echoes = echoes
        self._writers: defaultdict[int, CompletionLogprobWriter] = defaultdict(
            lambda: CompletionLogprobWriter(texts)
        )

    def opening(self, num_choices: int) -> list[Chunk]:
        """Prompts that are echoed: with log-probabilities their first tokens, of which none is
        known, or else all of them. A text that is not needs no introduction."""
        del num_choices
        return [
            self._answer([self._first_choice(index, echo)])
            for index, echo in enumerate(self._echoes)
        ]

    def news(self, index: int, output: RequestOutput) -> list[Chunk]:
        if not (output.text or output.logprobs or output.prompt_logprobs):
            return []
        is_last = output.finish_reason is not None
        echoed = self._echoes[index].take(output.prompt_logprobs) if self._echoes else []
        logprobs = self._logprobs(index, output.logprobs, echoed, is_last=is_last)
        return [self._answer([self._choice(index, _joined(echoed) + output.text, logprobs)])]

    def ending(self, index: int, output: RequestOutput) -> Chunk:
        return self._answer([self._choice(index, "", None, output)])

    def closing(self) -> Chunk:
        return self._answer([])

    def answer(self, choices: Sequence[FinishedChoice]) -> Answer:
        return self._answer([self._finished(index, one) for index, one in enumerate(choices)])

    def _first_choice(self, index: int, echo: Echo) -> CompletionChoice:
        echoed = echo.take([None])
        text = _joined(echoed) if self._with_logprobs else echo.text
        return self._choice(index, text, self._logprobs(index, (), echoed, is_last=False))

    def _finished(self, index: int, choice: FinishedChoice) -> CompletionChoice:
        echo = self._echoes[index] if self._echoes else None
        echoed = echo.take([None, *choice.prompt_logprobs]) if echo else []
        logprobs = self._logprobs(index, choice.logprobs, echoed, is_last=True)
        text = (echo.text if echo else "") + choice.text
        finished = self._choice(index, text, logprobs, choice.last_output)
        if self._num_read is not None:
            read = choice.prompt_logprobs
            finished.prompt_logprobs = prompt_logprobs(read, self._num_read, self._texts)
        return finished

    def _choice(
        self,
        index: int,
        text: str,
        logprobs: CompletionLogprobs | None,
        last_output: RequestOutput | None = None,
    ) -> CompletionChoice:
        finish_reason, stop_reason = (None, None) if last_output is None else _reasons(last_output)
        return CompletionChoice(
            index=index,
            text=text,
            logprobs=logprobs,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
        )

    def _answer(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(
            id=self._header.id,
            object="text_completion",
            created=self._header.created,
            model=self._header.model,
            system_fingerprint=self._header.fingerprint,
            choices=choices,
        )

    def _logprobs(
        self,
        index: int,
        tokens: Sequence[TokenLogprob],
        echoed: Sequence[EchoedToken],
        *,
        is_last: bool,
    ) -> CompletionLogprobs | None:
        if not self._with_logprobs:
            return None
        return self._writers[index].write(tokens, is_last=is_last, echoed=echoed)


def _joined(echoed: Sequence[EchoedToken]) -> str:
    return "".join(token.text for token in echoed)


def _reasons(output: RequestOutput) -> tuple[FinishReason, int | str | None]:
    # failed and aborted requests have been turned into errors before they get here
    return cast(FinishReason, output.finish_reason), output.stop_reason
