"""What has happened since the start, counted: requests, tokens, drafts, times.

The engine's thread writes, one line a request, a step or a committed path. It takes no lock:
readers get a copy of everything that is consistent in each single count and histogram.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Final, Literal

import numpy as np

from cast_drafters.tree import DraftTree
from cast_server.engine.histogram import Histogram
from cast_server.engine.meter import SpeculationReport
from cast_server.engine.scheduler import Scheduled
from cast_server.engine.sequence import Sequence
from cast_server.engine.timings import Timings
from cast_server.engine.verifier import Walk

# Seconds of requests: from an idle GPU's first token to an hour in a CPU's queue.
SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
# Seconds of a step or a token: finer, where one device differs from the next.
SHORT: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
TOKENS: Final = tuple(float(m * 10**e) for e in range(6) for m in (1, 2, 5))
ROWS: Final = tuple(float(2**e) for e in (0, *range(3, 15)))
NODES: Final = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
ERRORS: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)

Work = Literal["requests", "background"]


_seconds = partial(Histogram, SECONDS)
_short = partial(Histogram, SHORT)
_tokens = partial(Histogram, TOKENS)


@dataclass(slots=True)
class Ledger:
    """Sums since the start; of steps, and of clients' requests.

    Requests of evaluations give way to others, so their times would say nothing: only their tokens
    are counted. `finished` is by reason, `accepted_at[i]` counts drafts whose i-th token was
    accepted, `drafted_by` draft tokens by the number that the drafter's source has in trees,
    `choices` sequences by what a step drafted for them, `busy` seconds by whom for.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    background_tokens: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_at: list[int] = field(default_factory=list)
    drafted_by: dict[int, int] = field(default_factory=dict)
    accepted_by: dict[int, int] = field(default_factory=dict)
    choices: dict[str, int] = field(default_factory=lambda: {"off": 0, "chain": 0, "tree": 0})
    finished: dict[str, int] = field(
        default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0}
    )
    busy: dict[str, float] = field(default_factory=lambda: {"requests": 0.0, "background": 0.0})
    time_to_first_token: Histogram = field(default_factory=_seconds)
    inter_token: Histogram = field(default_factory=_short)
    time_per_output_token: Histogram = field(default_factory=_short)
    total: Histogram = field(default_factory=_seconds)
    queue: Histogram = field(default_factory=_seconds)
    inference: Histogram = field(default_factory=_seconds)
    prefill: Histogram = field(default_factory=_seconds)
    decode: Histogram = field(default_factory=_seconds)
    prompt_length: Histogram = field(default_factory=_tokens)
    generation_length: Histogram = field(default_factory=_tokens)
    step_tokens: Histogram = field(default_factory=partial(Histogram, ROWS))
    nodes: Histogram = field(default_factory=partial(Histogram, NODES))
    step_seconds: Histogram = field(default_factory=_short)
    predicted_seconds: Histogram = field(default_factory=_short)
    prediction_error: Histogram = field(default_factory=partial(Histogram, ERRORS))

    def copy(self) -> Ledger:
        """As it is now; for any thread."""
        return Ledger(**{one.name: _copied(getattr(self, one.name)) for one in fields(self)})

    def begin(self, scheduled: Seq[Scheduled]) -> int:
        """A step begins, perhaps not for the first time. Returns how many of its rows are of
        prompts, or of what was preempted."""
        now = time.monotonic()
        prompt_rows = 0
        for one in scheduled:
            if one.sequence.watch.scheduled is None:
                one.sequence.watch.scheduled = now
            if not one.sequence.is_decoding:
                prompt_rows += one.num_tokens
        return prompt_rows

    def commit(self, walk: Walk, num_tokens: int) -> None:
        """A sequence has gained tokens. All tokens of a step come at the same time, so each is
        counted as having taken an equal part of the time since the step before."""
        sequence = walk.sequence
        now = time.monotonic()
        gap = sequence.watch.tick(now)
        if sequence.request.is_background:
            self.background_tokens += num_tokens
            return
        self.generation_tokens += num_tokens
        if gap is None:
            self._first_token(sequence, now)
            num_tokens -= 1
        else:
            self._draft(walk)
        if num_tokens > 0:
            self.inter_token.add((gap or 0.0) / num_tokens, num_tokens)

    def step(self, num_tokens: int, predicted: float, seconds: float, only_decodes: bool) -> None:
        """A step is done, whoever it was for. `num_tokens`: of prompts and generated."""
        self.step_tokens.add(num_tokens)
        if only_decodes:
            self.step_seconds.add(seconds)
            self.predicted_seconds.add(predicted)
            self.prediction_error.add(abs(predicted - seconds) / seconds)

    def spend(self, work: Work, seconds: float) -> None:
        """The engine's thread was busy."""
        self.busy[work] += seconds

    def end(self, sequence: Sequence) -> None:
        """A sequence leaves; without a `finish_reason` it has been aborted. Only those that were
        answered to the end count in histograms."""
        reason = sequence.finish_reason or "abort"
        if sequence.request.is_background:
            return
        self.finished[reason] = self.finished.get(reason, 0) + 1
        if reason in ("stop", "length"):
            self._answered(sequence, sequence.watch.stop(time.monotonic()))

    def _first_token(self, sequence: Sequence, now: float) -> None:
        self.time_to_first_token.add(now - sequence.watch.queued)
        self.prompt_tokens += sequence.num_prompt
        self.cached_tokens += sequence.num_cached

    def _draft(self, walk: Walk) -> None:
        tree, num_accepted = walk.tree, len(walk.accepted)
        size = len(tree)
        self.nodes.add(size)
        if not size:
            self.choices["off"] += 1
            return
        self.choices["chain" if _is_chain(tree) else "tree"] += 1
        self.drafts += 1
        self.draft_tokens += size
        self.accepted_tokens += num_accepted
        while len(self.accepted_at) < num_accepted:
            self.accepted_at.append(0)
        for position in range(num_accepted):
            self.accepted_at[position] += 1
        self._count_sources(tree, walk.accepted)

    def _count_sources(self, tree: DraftTree, accepted: Seq[int]) -> None:
        sources = [0] * len(tree) if tree.sources_T is None else tree.sources_T.tolist()
        for source in sources:
            self.drafted_by[source] = self.drafted_by.get(source, 0) + 1
        for node in accepted:
            self.accepted_by[sources[node]] = self.accepted_by.get(sources[node], 0) + 1

    def _answered(self, sequence: Sequence, timings: Timings) -> None:
        count = sequence.num_output
        decode = timings.decode_seconds or 0.0
        for histogram, value in (
            (self.total, timings.total_seconds),
            (self.queue, timings.queue_seconds),
            (self.inference, timings.inference_seconds),
            (self.prefill, timings.prefill_seconds),
            (self.decode, decode),
            (self.prompt_length, sequence.num_prompt),
            (self.generation_length, count),
            (self.time_per_output_token, decode / (count - 1) if count > 1 else None),
        ):
            if value is not None:
                histogram.add(value)


@dataclass(frozen=True, slots=True)
class Figures:
    """An engine at one moment. `kv_usage` is the share of the KV cache that sequences hold."""

    ledger: Ledger
    drafter: str
    speculation: SpeculationReport
    running: int
    waiting: int
    background: int
    preemptions: int
    kv_usage: float


def _copied(value: Any) -> Any:
    return value if isinstance(value, int | float) else value.copy()


def _is_chain(tree: DraftTree) -> bool:
    return bool((tree.parents_T == np.arange(-1, len(tree) - 1)).all())
