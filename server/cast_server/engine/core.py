"""One step of the engine: schedule, draft, verify, accept, commit, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from cast_drafters.base import Drafter, VerifyResult
from cast_drafters.eagle.device_drafts import DeviceDrafts
from cast_drafters.policy import Policy, parse_policy
from cast_drafters.predicted import PredictedDrafter
from cast_drafters.tree import DraftTree
from cast_profiler.cost import CostModel
from cast_profiler.drift import CorrectedCost
from cast_server.engine.background import BACKGROUND_ROWS, Background
from cast_server.engine.backlog import Backlog
from cast_server.engine.block_pool import OutOfBlocksError
from cast_server.engine.detokenizer import TextStream
from cast_server.engine.grammars import Grammars
from cast_server.engine.grown_pass import GrownPass
from cast_server.engine.ledger import Figures, Ledger
from cast_server.engine.meter import SpeculationReport
from cast_server.engine.model_runner import ModelRunner
from cast_server.engine.pace import Pace
from cast_server.engine.planner import Planner, StepPlan, Taken, expected_tokens
from cast_server.engine.prompt_logprobs import read_prompts, with_prompts
from cast_server.engine.request import Request, RequestOutput, TokenLogprob
from cast_server.engine.sampler import top_logprobs
from cast_server.engine.scheduler import Scheduled, Scheduler, SchedulerLimits
from cast_server.engine.sequence import Sequence
from cast_server.engine.target_pass import Launched, TargetPass
from cast_server.engine.trace import StepFacts, with_traces
from cast_server.engine.verifier import Walk
from cast_server.errors import EngineFailureError, RequestError

_log = logging.getLogger(__name__)


class EngineCore:
    """Single-threaded. `step` until `has_work` is False; requests may come and go between steps."""

    def __init__(
        self,
        runner: ModelRunner,
        target: TargetPass,
        scheduler: Scheduler,
        drafter: Drafter,
        tokenizer: Any,
        eos_token_ids: frozenset[int],
        default_policy: str,
        cost: CostModel,
    ) -> None:
        self.runner, self.target = runner, target
        self.scheduler = scheduler
        limits = replace(scheduler.limits, max_batched_tokens=_few(scheduler.limits))
        self.background = Background(Scheduler(scheduler.pool, limits))
        scheduler.behind = self.background.scheduler
        self._guesses = PredictedDrafter(drafter)
        self.backlog = Backlog(target.overlaps)
        self.planner = Planner(CorrectedCost(cost), self._guesses, later=self.backlog.add)
        self.pace = Pace()
        self.tokenizer = tokenizer
        self.eos_token_ids = eos_token_ids
        self.grammars = Grammars(tokenizer, runner.vocab_size, eos_token_ids)
        self.default_policy = default_policy
        self.on_finish: Callable[[Sequence], None] | None = None  # while its slots are still there
        self.ledger = Ledger()
        self.grown: GrownPass | None = None  # for drafts that grow on the device
        self._sequences: dict[str, Sequence] = {}

    @property
    def drafter(self) -> Drafter:
        return self._guesses.inner

    @drafter.setter
    def drafter(self, drafter: Drafter) -> None:
        self._guesses.inner = drafter

    @property
    def has_work(self) -> bool:
        return bool(self._sequences) or self.background.has_work

    def report(self) -> SpeculationReport:
        """What speculation has been worth so far; may be asked from any thread."""
        planner = self.planner
        error = self.drafter.calibration.report.error
        return planner.meter.report(error, planner.cost.drift)

    def figures(self) -> Figures:
        """All that is counted, and how busy the engine is; may be asked from any thread."""
        scheduler, behind, pool = self.scheduler, self.background.scheduler, self.scheduler.pool
        return Figures(
            ledger=self.ledger.copy(),
            drafter=self.drafter.name,
            speculation=self.report(),
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            background=len(behind.running) + len(behind.waiting),
            preemptions=scheduler.num_preemptions,
            kv_usage=1 - pool.num_free / pool.num_blocks,
        )

    def add(self, request: Request) -> None:
        """Queues a request. Raises `ValueError` for an unknown speculation policy."""
        params = request.params
        stop_ids = frozenset(params.stop_token_ids)
        grammar = None
        if params.grammar is not None:
            grammar = self.grammars.begin(params.grammar, avoids_ends=params.ignore_eos)
        if not params.ignore_eos or grammar is not None:
            stop_ids |= self.eos_token_ids
        text = TextStream(self.tokenizer, params)
        sequence = Sequence(request, self.policy_of(request), stop_ids, text, grammar)
        self._sequences[request.id] = sequence
        self._scheduler_of(sequence).add(sequence)
        self._guesses.begin(request.id, sequence.token_ids)

    def abort(self, request_id: str) -> None:
        """Forgets a request or a job, waiting or running. Unknown ids are fine."""
        self.background.drop(request_id)
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._drop(sequence)

    def policy_of(self, request: Request) -> Policy:
        wish = request.speculation
        return parse_policy(wish.policy or self.default_policy, wish.max_draft_tokens)

    def step(self) -> list[RequestOutput]:
        """News of every sequence that got tokens or ended, or a slice of background work."""
        outputs = self._step_or_slice()
        if not self._sequences:
            self.backlog.work_off()  # no other step may come for long
        return outputs

    def _step_or_slice(self) -> list[RequestOutput]:
        begin = time.perf_counter()
        background, has_others = self.background, self.scheduler.has_work
        is_turn = background.has_work and (background.share.is_due or not has_others)
        scheduled = [] if is_turn else self.scheduler.schedule()
        if scheduled:
            outputs = self._step(scheduled)
            seconds = time.perf_counter() - begin
            self.ledger.spend("requests", seconds)
            background.share.earn(seconds)
            return outputs
        # Others may be waiting for blocks that only background work can give back.
        outputs = self._step(background.advance())
        seconds = time.perf_counter() - begin
        self.ledger.spend("background", seconds)
        if has_others:
            background.share.spend(seconds)
        return outputs

    def _step(self, scheduled: list[Scheduled]) -> list[RequestOutput]:
        """If the step fails, its sequences are run one by one without drafts: only those that fail
        alone end with an error, and a broken drafter costs nothing but speed."""
        if not scheduled:
            return []
        before = [_progress(one.sequence) for one in scheduled]
        try:
            return self._run(scheduled)
        except Exception:  # noqa: BLE001 - whatever it was, the other requests must go on
            _log.exception("a step of %d requests failed; trying them one by one", len(scheduled))
        outputs: list[RequestOutput] = []
        for one, progress in zip(scheduled, before, strict=True):
            is_untouched = _progress(one.sequence) == progress
            outputs += self._run_alone(one) if is_untouched else [self._fail(one.sequence)]
        return outputs

    def _run_alone(self, one: Scheduled) -> list[RequestOutput]:
        try:
            return self._run([replace(one, max_draft_rows=0)])
        except RequestError as error:
            return [self._fail(one.sequence, error)]
        except Exception:  # noqa: BLE001 - as above
            _log.exception("request %s failed", one.sequence.id)
            return [self._fail(one.sequence)]

    def _fail(self, sequence: Sequence, error: RequestError | None = None) -> RequestOutput:
        sequence.finish_reason = "error"
        if sequence.id in self._sequences:
            self._drop(sequence)
        timings = sequence.watch.stop(time.monotonic())
        if error is None:
            error = EngineFailureError("The server failed on this request; it may be sent again.")
        return RequestOutput(
            request_id=sequence.id, finish_reason="error", error=error, timings=timings
        )

    def _run(self, scheduled: list[Scheduled]) -> list[RequestOutput]:
        begin = time.perf_counter()
        num_prompt_rows = self.ledger.begin(scheduled)
        scheduler = self._scheduler_of(scheduled[0].sequence)
        plan = self.planner.plan(scheduled, scheduler.num_spare(scheduled), self._device(scheduled))
        launched = self._launch(scheduled, plan)
        self.backlog.work_off()  # of the step before, while the device works on this one
        verified = launched.wait()
        walks, verify_seconds = verified.walks, verified.seconds
        if plan.foreseen is not None:
            trees = [walk.tree for walk in walks]
            verify_seconds = self.planner.found(plan, trees, verified.seconds)
        prompts = read_prompts(scheduled, verified.read_logits_RV)
        for one in scheduled:
            self._advance(one.sequence, one.num_tokens)
        chosen_after = time.perf_counter() - begin
        expected = [expected_tokens(walk.tree) for walk in walks]
        outputs = []
        for walk, tokens in zip(walks, expected, strict=True):
            if walk.sequence.num_output:
                counts = (len(walk.tree), len(walk.accepted), tokens)
                walk.sequence.count_step(*counts, plan.predicted, chosen_after)
            outputs.append(self._commit(walk, verified.logits_RV))
        self._observe(plan, walks)
        num_accepted = sum(len(walk.accepted) for walk in walks)
        num_tokens = sum(len(one.new_token_ids) for one in outputs)
        seconds = time.perf_counter() - begin
        self.pace.add(num_tokens)
        taken = Taken(verify_seconds, seconds, sum(expected), num_accepted, num_tokens)
        self.planner.learn(plan, taken)
        num_tokens += num_prompt_rows
        self.ledger.step(num_tokens, plan.predicted, seconds, plan.only_decodes)
        facts = StepFacts(self.drafter.name, len(scheduled), plan.predicted, seconds)
        outputs = with_traces(outputs, walks, facts)
        for walk in walks:
            if walk.sequence.finish_reason is not None:
                if self.on_finish is not None:
                    self.on_finish(walk.sequence)
                self._drop(walk.sequence)
        return with_prompts(outputs, prompts)

    def _device(self, scheduled: list[Scheduled]) -> DeviceDrafts | None:
        """What can grow this step's drafts beside the target, if anything can."""
        grown = self.grown
        is_able = grown is not None and grown.takes(scheduled, self.drafter)
        return grown.drafts if grown is not None and is_able else None

    def _launch(self, scheduled: list[Scheduled], plan: StepPlan) -> Launched:
        """Drafts that do not fit are left out."""
        if plan.foreseen is not None and self.grown is not None:
            step = plan.foreseen.step
            sequences = [scheduled[place].sequence for place in step.places]
            step.sizes = [
                self._make_room(one, size) for one, size in zip(sequences, step.sizes, strict=True)
            ]
            self.planner.predict(plan)
            return self.grown.launch(scheduled, step)
        plan.trees = [
            self._fit(one.sequence, tree) for one, tree in zip(scheduled, plan.trees, strict=True)
        ]
        self.planner.predict(plan)
        return self.target.launch(scheduled, plan.trees)

    def _observe(self, plan: StepPlan, walks: list[Walk]) -> None:
        """The drafter learns: before it drafts again, unless the device does that."""
        # What a grammar has decided says little of how far the drafter can be trusted.
        results = [_verify_result(walk) for walk in walks if walk.sequence.grammar is None]
        if plan.foreseen is not None and self.grown is not None:
            self.backlog.add(partial(self.grown.drafts.learn, plan.foreseen.step, results))
        elif plan.num_asked:
            self._guesses.observe(results)

    def _fit(self, sequence: Sequence, tree: DraftTree) -> DraftTree:
        """Cuts a tree to the blocks that are free; drafts never take another's place."""
        return tree.best(self._make_room(sequence, len(tree))) if len(tree) else tree

    def _make_room(self, sequence: Sequence, num_nodes: int) -> int:
        """Blocks for so many nodes, or for as many as there are blocks for."""
        pool = self.scheduler.pool
        room = (len(sequence.blocks) + pool.num_free) * pool.block_size - len(sequence.token_ids)
        num_nodes = min(num_nodes, max(0, room))
        try:
            sequence.reserve(pool, len(sequence.token_ids) + num_nodes)
        except OutOfBlocksError:  # pragma: no cover - `room` has counted the free blocks
            return 0
        return num_nodes

    def _advance(self, sequence: Sequence, num_tokens: int) -> None:
        before = sequence.num_computed
        sequence.advance(num_tokens)
        if self.scheduler.limits.prefix_caching:
            sequence.publish_prefix(self.scheduler.pool, before)

    def _commit(self, walk: Walk, logits_RV: Tensor) -> RequestOutput:
        sequence = walk.sequence
        kept, text = sequence.append(walk.tokens)
        sequence.count_sources(walk.tree, walk.accepted[: len(kept)])
        self._advance(sequence, min(len(walk.accepted), len(kept)))
        sequence.trim(self.scheduler.pool)
        self.ledger.commit(walk, len(kept))
        return _output(sequence, kept, text, self._logprobs(walk, kept, logits_RV))

    def _logprobs(self, walk: Walk, kept: Seq[int], logits_RV: Tensor) -> tuple[TokenLogprob, ...]:
        count = walk.sequence.params.logprobs
        if count is None:
            return ()
        return tuple(
            top_logprobs(logits_RV[row], token_id, count)
            for row, token_id in zip(walk.rows, kept, strict=False)
        )

    def _scheduler_of(self, sequence: Sequence) -> Scheduler:
        is_background = sequence.request.is_background
        return self.background.scheduler if is_background else self.scheduler

    def _drop(self, sequence: Sequence) -> None:
        del self._sequences[sequence.id]
        self.ledger.end(sequence)
        self._scheduler_of(sequence).remove(sequence)
        try:
            self._guesses.release(sequence.id)
        except Exception:  # noqa: BLE001 - the sequence has ended, whatever the drafter makes of it
            _log.exception("the drafter failed to forget request %s", sequence.id)


def _output(
    sequence: Sequence, kept: list[int], text: str, logprobs: tuple[TokenLogprob, ...]
) -> RequestOutput:
    return RequestOutput(
        request_id=sequence.id,
        new_token_ids=tuple(kept),
        text=text,
        logprobs=logprobs,
        finish_reason=sequence.finish_reason,
        stop_reason=sequence.stop_reason,
        num_prompt_tokens=sequence.num_prompt,
        num_cached_tokens=sequence.num_cached,
        num_output_tokens=sequence.num_output,
        speculation=sequence.speculation(),
        timings=None if sequence.finish_reason is None else sequence.watch.stop(time.monotonic()),
    )


def _few(limits: SchedulerLimits) -> int:
    """Rows of a background step: it is short, as others may be waiting for its end."""
    return min(limits.max_batched_tokens, max(limits.max_num_seqs, BACKGROUND_ROWS))


def _progress(sequence: Sequence) -> tuple[int, int]:
    return sequence.num_computed, len(sequence.token_ids)


def _verify_result(walk: Walk) -> VerifyResult:
    return VerifyResult(walk.sequence.id, walk.tree, tuple(walk.accepted), tuple(walk.tokens))
