"""Step traces of an answer, in words: our own field `speculation`, beside OpenAI's `choices`."""

from __future__ import annotations

import codecs
from collections import Counter, defaultdict
from typing import Final

from pydantic import BaseModel

from cast_server.api.token_text import TokenText
from cast_server.engine.request import RequestOutput
from cast_server.engine.trace import StepTrace

MAX_STEPS: Final = 2048  # that an answer tells which is not streamed


class DraftNode(BaseModel):
    """A drafted token behind node `parent`; -1 is the last token before the step.

    `probability` is what the server expected of the whole path up to here.
    """

    token: str
    parent: int
    probability: float
    source: str | None
    accepted: bool


class StepBody(BaseModel):
    """What one step drafted for choice `index`, and what became of it.

    `tokens` are what it committed, and joined they give the text: a token that ends inside a
    character is "", and the character goes to the one that completes it. `bonus` is the last of
    them, the model's own, unless a stop came first. `ends_prompt`: no decoding step, but the
    prompt's. Seconds are those of the whole step, which `num_sequences` shared.
    """

    index: int
    step: int
    nodes: list[DraftNode]
    num_nodes_left_out: int
    accepted: list[int]
    tokens: list[str]
    bonus: str | None
    ends_prompt: bool
    num_sequences: int
    predicted_seconds: float
    seconds: float
    seconds_since_arrival: float


class SpeculationTrace(BaseModel):
    """Steps of all choices, in order. Only whole answers leave any out, beyond the first ones."""

    steps: list[StepBody]
    num_steps_left_out: int = 0


class TraceWriter:
    """Words the traces of one HTTP request."""

    def __init__(self, texts: TokenText) -> None:
        self._texts = texts
        self._counts: Counter[int] = Counter()
        self._decoders: defaultdict[int, codecs.IncrementalDecoder] = defaultdict(
            lambda: codecs.getincrementaldecoder("utf-8")("replace")
        )

    def news(self, index: int, output: RequestOutput) -> SpeculationTrace | None:
        """What `output` tells of choice `index`; None if it tells nothing."""
        if not output.steps:
            return None
        is_last = output.finish_reason is not None
        return SpeculationTrace(steps=[self._step(index, one, is_last) for one in output.steps])

    def _step(self, index: int, one: StepTrace, is_last: bool) -> StepBody:
        number = self._counts[index]
        self._counts[index] += 1
        return StepBody(
            index=index,
            step=number,
            nodes=self._nodes(one),
            num_nodes_left_out=one.num_left_out,
            accepted=list(one.accepted),
            tokens=self._tokens(index, one.token_ids, is_last),
            bonus=self._bonus(one),
            ends_prompt=one.ends_prompt,
            num_sequences=one.num_sequences,
            predicted_seconds=one.predicted_seconds,
            seconds=one.seconds,
            seconds_since_arrival=one.since_arrival,
        )

    def _nodes(self, one: StepTrace) -> list[DraftNode]:
        accepted = set(one.accepted)
        columns = zip(one.node_ids, one.parents, one.probabilities, one.sources, strict=True)
        return [
            DraftNode(
                token=self._text(token_id),
                parent=parent,
                probability=probability,
                source=source,
                accepted=node in accepted,
            )
            for node, (token_id, parent, probability, source) in enumerate(columns)
        ]

    def _tokens(self, index: int, token_ids: tuple[int, ...], is_last: bool) -> list[str]:
        decoder = self._decoders[index]
        datas = [self._texts.bytes_of(token_id) for token_id in token_ids]
        texts = [decoder.decode(data) for data in datas]
        if is_last and texts:
            texts[-1] += decoder.decode(b"", True)
        return texts

    def _bonus(self, one: StepTrace) -> str | None:
        is_cut = len(one.token_ids) <= len(one.accepted)
        return None if is_cut else self._text(one.token_ids[-1])

    def _text(self, token_id: int) -> str:
        return self._texts.bytes_of(token_id).decode(errors="replace")


class CollectedTraces:
    """The first steps of each choice, for an answer that is not streamed."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._kept = SpeculationTrace(steps=[], num_steps_left_out=0)
        self._is_asked_for = False

    def add(self, index: int, output: RequestOutput) -> None:
        news = self._writer.news(index, output)
        if news is None:
            return
        self._is_asked_for = True
        room = MAX_STEPS - len(self._kept.steps)
        self._kept.steps += news.steps[:room]
        self._kept.num_steps_left_out += len(news.steps[room:])

    def whole(self) -> SpeculationTrace | None:
        """None if no request asked for a trace."""
        return self._kept if self._is_asked_for else None
