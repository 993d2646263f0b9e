"""An engine without a model: the real planner and builders, a replayed drafter, simulated seconds.

A step drafts, verifies and commits as `EngineCore`'s does. What a pass takes is what the hardware
says; what is accepted is what the trace's own text says, so a sequence goes on at a position that
was recorded. Reading prompts takes no time here: figures are of steps that only decode.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Final, cast

from cast_bench.policies import num_requests
from cast_bench.simulate.hardware import Clock, Hardware, Host
from cast_bench.simulate.replay import Load, TraceDrafter
from cast_bench.simulate.trace import Script, Trace
from cast_drafters.policy import Policy, parse_policy
from cast_drafters.tree import DraftTree
from cast_profiler.drift import CorrectedCost
from cast_server.engine.detokenizer import TextStream
from cast_server.engine.planner import Planner, StepPlan, Taken, expected_tokens
from cast_server.engine.request import Request, SamplingParams
from cast_server.engine.scheduler import Scheduled
from cast_server.engine.sequence import Sequence

_ENDLESS: Final = 2**20  # rows that a sequence has room for


@dataclass(slots=True)
class Cell:
    """One policy at one batch size and context, None: the prompts' own. Counts are of steps with
    the batch full; seconds are simulated."""

    dataset: str
    policy: str
    batch_size: int
    context: int | None
    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    draft_tokens: int = 0
    accepted: int = 0
    levels: int = 0
    histogram: dict[int, int] = field(default_factory=dict)  # steps of a sequence, by acceptances

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class Replayed(Sequence):
    """A sequence that decodes a script, behind so many tokens that nobody keeps."""

    def __init__(self, name: str, policy: Policy, script: Script, limit: int, context: int) -> None:
        params = SamplingParams(max_tokens=limit, temperature=0.0, ignore_eos=True)
        no_text = cast(TextStream, None)  # nobody reads it
        super().__init__(Request(name, (), params, 0), policy, frozenset(), no_text)
        self.script, self.context = script, context
        self.commit(1)

    @property
    def num_pending(self) -> int:
        return 1

    @property
    def is_done(self) -> bool:
        return self.num_output >= self.params.max_tokens

    def commit(self, count: int) -> None:
        self.token_ids += self.script.token_ids[self.num_output : self.num_output + count]
        self.num_computed = self.context + self.num_output - 1

    def accepted(self, tree: DraftTree) -> int:
        """How many nodes of a tree are on the way that the script goes."""
        children = tree.children()
        node: int | None = -1
        for depth, token in enumerate(self.script.token_ids[self.num_output :]):
            node = children.get((cast(int, node), token))
            if node is None:
                return depth
        return len(self.script.token_ids) - self.num_output


class Simulation:
    """Runs cells of one policy kind after the other on planners of their own."""

    def __init__(self, trace: Trace, hardware: Hardware, host: Host, max_draft_rows: int) -> None:
        self.trace, self._cost, self._host = trace, hardware.cost, host
        self._max_draft_rows = max_draft_rows
        self._clock = Clock()
        self._restart()

    def run(self, cell: Cell, num_tokens: int, warmup: int) -> None:
        """Fills in the cell. A round of answers of `warmup` tokens goes before and is not counted,
        in which policies that learn do so."""
        self._restart()
        if warmup:
            unused = Cell(cell.dataset, cell.policy, cell.batch_size, cell.context)
            self._round(unused, min(warmup, num_tokens))
        self._round(cell, num_tokens)

    def _restart(self) -> None:
        self._drafter = TraceDrafter(self.trace, self._clock, self._cost, self._host)
        self._planner = Planner(CorrectedCost(self._cost), self._drafter, clock=self._clock)

    def _round(self, cell: Cell, num_tokens: int) -> None:
        """Closed loop: as one request ends, the next begins."""
        scripts = self.trace.of(cell.dataset)
        waiting = list(range(num_requests(cell.batch_size, len(scripts))))[::-1]
        running: list[Replayed] = []
        while waiting or running:
            while waiting and len(running) < cell.batch_size:
                number = waiting.pop()
                running.append(self._begin(cell, number, scripts, num_tokens))
            self._step(cell, running)
            for one in running:
                if one.is_done:
                    self._drafter.release(one.id)
            running = [one for one in running if not one.is_done]

    def _begin(self, cell: Cell, number: int, scripts: Seq[int], num_tokens: int) -> Replayed:
        index = scripts[number % len(scripts)]
        script = self.trace.scripts[index]
        limit = min(num_tokens, len(script.token_ids))
        context = script.num_prompt if cell.context is None else cell.context
        one = Replayed(f"{number}", parse_policy(cell.policy), script, limit, context)
        self._drafter.follow(one.id, index, num_seen=0)
        return one

    def _step(self, cell: Cell, running: Seq[Replayed]) -> None:
        begin, planner = self._clock.now, self._planner
        scheduled = [Scheduled(one, 1, 0 if _is_last(one) else _ENDLESS) for one in running]
        count, keys = len(running), sum(one.num_computed + 1 for one in running)
        self._drafter.load = Load(keys, count)
        plan = planner.plan(scheduled, self._num_spare(cell, count))
        planner.predict(plan)
        verify_seconds = self._cost.verify_seconds(count + sum(map(len, plan.trees)), keys, count)
        self._clock.advance(verify_seconds + self._host.rest_seconds(count))
        accepted = [one.accepted(tree) for one, tree in zip(running, plan.trees, strict=True)]
        num_tokens = count + sum(accepted)
        expected = sum(map(expected_tokens, plan.trees))
        seconds = self._clock.now - begin
        planner.learn(plan, Taken(verify_seconds, seconds, expected, sum(accepted), num_tokens))
        for one, depth in zip(running, accepted, strict=True):
            one.commit(depth + 1)
        if count == cell.batch_size:
            _count(cell, plan, accepted, seconds)

    def _num_spare(self, cell: Cell, count: int) -> int:
        """As the scheduler of `cast-bench policies` has it."""
        most = min(max(512, 64 * cell.batch_size), self._max_draft_rows)
        return max(0, most - count)


def _is_last(one: Replayed) -> bool:
    return one.params.max_tokens - one.num_output <= 1


def _count(cell: Cell, plan: StepPlan, accepted: Seq[int], seconds: float) -> None:
    cell.steps += 1
    cell.seconds += seconds
    cell.tokens += len(accepted) + sum(accepted)
    cell.draft_tokens += sum(map(len, plan.trees))
    cell.accepted += sum(accepted)
    cell.levels += plan.levels.count if plan.levels else 0
    for depth in accepted:
        cell.histogram[depth] = cell.histogram.get(depth, 0) + 1
