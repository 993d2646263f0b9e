"""From the engine's requests to the HTTP response, streamed or whole."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import Request, Response

from cast_server.api.accounting import metrics_of, usage_of
from cast_server.api.best_of import best_choices
from cast_server.api.dependencies import token_text
from cast_server.api.engine import Engine
from cast_server.api.formats import FinishedChoice, Format
from cast_server.api.generation import merged_outputs, run_while_connected
from cast_server.api.protocol import GenerationRequest, StreamOptions
from cast_server.api.requests import RequestGroup
from cast_server.api.step_traces import CollectedTraces, TraceWriter
from cast_server.api.streaming import EventStream, answer_events
from cast_server.api.terms import on_terms
from cast_server.engine.request import RequestOutput, TokenLogprob


async def respond(
    engine: Engine, group: RequestGroup, form: Format, body: GenerationRequest, http: Request
) -> Response:
    """Generates and answers in the way that the body asks for."""
    group = on_terms(group, body.timeout, http)
    traces = TraceWriter(token_text(http))
    if body.stream:
        options = body.stream_options or StreamOptions()
        return EventStream(answer_events(engine, group, form, options, traces))
    collected = CollectedTraces(traces)
    choices = await run_while_connected(_collect(engine, group, collected), http.receive)
    last_outputs = [choice.last_output for choice in choices]
    answer = form.answer(best_choices(choices, group.copies, group.num_kept))
    answer.usage = usage_of(group, last_outputs)
    answer.metrics = metrics_of(last_outputs)
    if (steps := collected.whole()) is not None:
        answer.speculation = steps
    return Response(answer.model_dump_json(exclude_unset=True), media_type="application/json")


@dataclass(slots=True)
class _GrowingChoice:
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    last_output: RequestOutput | None = None

    def add(self, output: RequestOutput) -> None:
        self.texts.append(output.text)
        self.logprobs.extend(output.logprobs)
        self.prompt_logprobs.extend(output.prompt_logprobs)
        self.last_output = output

    def finished(self) -> FinishedChoice:
        assert self.last_output is not None
        return FinishedChoice(
            "".join(self.texts),
            tuple(self.logprobs),
            self.last_output,
            tuple(self.prompt_logprobs),
        )


async def _collect(
    engine: Engine, group: RequestGroup, traces: CollectedTraces
) -> list[FinishedChoice]:
    choices = [_GrowingChoice() for _ in group.requests]
    async with aclosing(merged_outputs(engine, group)) as outputs:
        async for index, output in outputs:
            choices[index].add(output)
            traces.add(index, output)
    return [choice.finished() for choice in choices]
