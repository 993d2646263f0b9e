"""Runs a batch of prompts, begun together, to its last token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from cast_bench.latency.iteration import Decoding, Detail, Iteration
from cast_bench.latency.timeline import Timeline
from cast_bench.workloads import Prompt
from cast_profiler.device import energy
from cast_server.engine.core import EngineCore
from cast_server.engine.meter import StepRecord
from cast_server.engine.request import (
    Request,
    RequestOutput,
    SamplingParams,
    SpeculationParams,
    SpeculationStats,
)


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is: a policy, on `batch_size` prompts from those of the round on."""

    policy: str
    batch_size: int
    round: int

    def prompts(self, count: int) -> tuple[int, ...]:
        """Numbers of prompts, of `count`: each round goes on after those of the one before."""
        first = (self.round - 1) * self.batch_size
        return tuple((first + i) % count for i in range(self.batch_size))


@dataclass(slots=True)
class BatchRunner:
    """On one engine. `temperature` 0 is greedy; the seed of a prompt is `seed` and its number."""

    core: EngineCore
    prompts: Sequence[Prompt]
    output_len: int
    temperature: float
    seed: int
    save_detailed: bool = False
    _count: int = 0

    def run(self, turn: Turn) -> tuple[Iteration, list[list[int]]]:
        """The record and the outputs, in order of the requests."""
        numbers = turn.prompts(len(self.prompts))
        running = _Running(Timeline.of(turn.batch_size), [[] for _ in numbers])
        device = self.core.runner.device
        joules, _ = energy(device)
        begin = time.perf_counter()
        names = {self._add(number, turn.policy): i for i, number in enumerate(numbers)}
        while self.core.has_work:
            self._step(running, names, begin)
        latency = time.perf_counter() - begin
        after, _ = energy(device)
        iteration = Iteration(
            policy=turn.policy,
            batch_size=turn.batch_size,
            round=turn.round,
            latency=latency,
            num_tokens=sum(map(len, running.outputs)),
            prompts=numbers,
            times=running.timeline.times(),
            decoding=running.decoding(),
            energy=None if joules is None or after is None else after - joules,
            detail=running.detail() if self.save_detailed else None,
        )
        return iteration, running.outputs

    def _add(self, number: int, policy: str) -> str:
        self._count += 1
        name = f"{self._count}"
        # All answers are equally long, whatever the model would do: policies must have equal work.
        params = SamplingParams(
            max_tokens=self.output_len, temperature=self.temperature, ignore_eos=True
        )
        ids = self.prompts[number].token_ids
        self.core.add(Request(name, ids, params, self.seed + number, SpeculationParams(policy)))
        return name

    def _step(self, running: _Running, names: dict[str, int], begin: float) -> None:
        meter = self.core.planner.meter
        steps_before, before = meter.steps, time.perf_counter()
        is_full = not running.num_ended
        news = self.core.step()
        now = time.perf_counter()
        for one in news:
            assert one.error is None, one.error  # the engine goes on without it; we must not
            running.add(names[one.request_id], now - begin, one)
        if meter.steps > steps_before:  # else a prompt was read
            tokens = sum(len(one.new_token_ids) for one in news)
            running.add_step(meter.recent[-1], now - before, tokens, is_full)


@dataclass(slots=True)
class _Running:
    """What is known of a batch so far."""

    timeline: Timeline
    outputs: list[list[int]]
    num_ended: int = 0
    records: list[StepRecord] = field(default_factory=list)
    stats: list[SpeculationStats] = field(default_factory=list)
    full_tokens: int = 0
    full_seconds: float = 0.0

    def add(self, index: int, seconds: float, news: RequestOutput) -> None:
        self.timeline.add(index, seconds, len(news.new_token_ids))
        self.outputs[index] += news.new_token_ids
        if news.finish_reason is not None:
            self.num_ended += 1
            self.stats.append(news.speculation)

    def add_step(self, record: StepRecord, seconds: float, tokens: int, is_full: bool) -> None:
        self.records.append(record)
        if is_full:
            self.full_tokens += tokens
            self.full_seconds += seconds

    def decoding(self) -> Decoding:
        some = self.records
        return Decoding(
            steps=len(some),
            seconds=sum(one.seconds for one in some),
            draft_seconds=sum(one.draft for one in some),
            verify_seconds=sum(one.verify for one in some),
            predicted_seconds=sum(one.predicted for one in some),
            drafted=sum(one.nodes for one in some),
            expected=sum(one.expected for one in some),
            accepted=sum(one.accepted for one in some),
            full_tokens=self.full_tokens,
            full_seconds=self.full_seconds,
            histogram=tuple(
                map(sum, zip_longest(*(one.histogram for one in self.stats), fillvalue=0))
            ),
            errors=tuple(round(abs(o.predicted - o.seconds) / o.seconds, 4) for o in some),
        )

    def detail(self) -> Detail:
        return Detail(
            outputs=tuple(map(tuple, self.outputs)),
            arrivals=tuple(map(tuple, self.timeline.arrivals)),
        )
