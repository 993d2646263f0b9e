"""Whatever comes and goes in whatever order: nothing is lost, left over or mixed up."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import tiny_models
from engine.driving import Answer, request, run
from hypothesis import given, settings
from hypothesis import strategies as st

from cast_drafters.ngram import NgramDrafter
from cast_server.engine.block_pool import BlockPool
from cast_server.engine.request import Request, SamplingParams
from cast_server.engine.scheduler import Scheduler, SchedulerLimits

BLOCK_SIZE = 4
POLICIES = ("off", "chain:3", "tree:6", "cast", "eagle2:20", "chain-cost", "cast-paper")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@dataclass(frozen=True)
class Job:
    """A request, when it arrives, and how many steps later it is aborted, if at all."""

    request: Request
    arrival: int
    abort_after: int | None


@pytest.fixture(scope="module")
def core():
    return tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama, seed=2))


def reset(core, num_blocks, **limits) -> None:
    """The same model and cache, with a new pool over a part of it."""
    sizes = {"max_num_seqs": 8, "max_batched_tokens": 48, "max_draft_rows": 24}
    settings = {"max_model_len": num_blocks * BLOCK_SIZE, "prefix_caching": True}
    core.scheduler = Scheduler(
        BlockPool(num_blocks, BLOCK_SIZE), SchedulerLimits(**sizes | settings | limits)
    )
    core.drafter = NgramDrafter()


def make_job(chosen: random.Random, index: int, most_prompt: int, most_output: int) -> Job:
    prompt = [chosen.randrange(4) for _ in range(chosen.randint(1, most_prompt))]
    if chosen.random() < 0.5:
        prompt = ([7, 8, 9, 10] * 5)[: chosen.randint(4, 20)] + prompt[: most_prompt - 20]
    params = SamplingParams(
        max_tokens=chosen.randint(1, most_output),
        temperature=chosen.choice([0.0, 0.0, 0.2, 1.0]),
        ignore_eos=True,
    )
    policy = chosen.choice(POLICIES)
    return Job(
        request(f"r{index}", prompt[:most_prompt], params, policy, seed=index),
        arrival=chosen.randint(2 * index, 3 * index),
        abort_after=chosen.choice([0, 1, 2, 4, 9, 20, 50]) if chosen.random() < 0.25 else None,
    )


def play(core, jobs) -> tuple[dict[str, Answer], set[str]]:
    """The answers, and the names of those that were aborted before they had ended."""
    answers = {job.request.id: Answer() for job in jobs}
    to_come = sorted(jobs, key=lambda job: -job.arrival)
    aborts: list[tuple[int, str]] = []
    aborted: set[str] = set()
    step = 0
    while to_come or core.has_work:
        while to_come and to_come[-1].arrival <= step:
            job = to_come.pop()
            core.add(job.request)
            if job.abort_after is not None:
                aborts.append((step + job.abort_after, job.request.id))
        for due, name in aborts:
            if due == step and answers[name].last is None:
                core.abort(name)
                aborted.add(name)
        for output in core.step():
            answer = answers[output.request_id]
            assert output.request_id not in aborted
            assert answer.last is None, "news after the end"
            answer.tokens += output.new_token_ids
            answer.text += output.text
            answer.last = output if output.finish_reason else None
        pool = core.scheduler.pool
        held = {b for sequence in core.scheduler.running for b in sequence.blocks}
        assert pool.num_free == pool.num_blocks - len(held)
        assert not any(sequence.blocks for sequence in core.scheduler.waiting)
        step += 1
        assert step < 5000, "the engine makes no progress"
    return answers, aborted


def assert_all_is_settled(core, jobs, answers, aborted) -> None:
    assert core.scheduler.pool.num_free == core.scheduler.pool.num_blocks
    assert not core.scheduler.running
    assert not core.scheduler.waiting
    assert not core._sequences
    assert not core.drafter._indexes
    for job in jobs:
        answer = answers[job.request.id]
        if job.request.id in aborted:
            assert answer.last is None
        else:
            assert answer.last.finish_reason == "length"
            assert len(answer.tokens) == job.request.params.max_tokens
            assert answer.last.num_output_tokens == len(answer.tokens)
            assert answer.last.num_prompt_tokens == len(job.request.prompt_token_ids)


def assert_same_alone(core, jobs, answers, aborted) -> None:
    reset(core, num_blocks=64, prefix_caching=False, max_num_seqs=1)
    for job in jobs:
        alone = run(core, [job.request], concurrency=1)[job.request.id]
        together = answers[job.request.id]
        if job.request.id in aborted:
            assert together.tokens == alone.tokens[: len(together.tokens)]
        else:
            assert (together.tokens, together.text) == (alone.tokens, alone.text)


def test_300_requests_on_a_small_cache(core) -> None:
    reset(core, num_blocks=40)
    chosen = random.Random(1)
    jobs = [make_job(chosen, index, most_prompt=40, most_output=24) for index in range(300)]
    answers, aborted = play(core, jobs)
    assert core.scheduler.num_preemptions > 10
    assert len(aborted) > 30
    assert any(answers[name].tokens for name in aborted), "none was aborted while decoding"
    assert not all(answers[name].tokens for name in aborted), "none was aborted before"
    ended = [answer.last for answer in answers.values() if answer.last]
    assert sum(last.num_cached_tokens for last in ended) > 100
    assert sum(last.speculation.num_accepted_draft_tokens for last in ended) > 50
    assert_all_is_settled(core, jobs, answers, aborted)
    assert_same_alone(core, jobs[::3], answers, aborted)


@given(
    seed=st.integers(0, 2**32 - 1),
    num_jobs=st.integers(1, 9),
    num_blocks=st.integers(9, 20),
    max_num_seqs=st.integers(1, 6),
    max_batched_tokens=st.integers(6, 40),
    max_draft_rows=st.integers(0, 30),
    prefix_caching=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_small_schedule(core, seed, num_jobs, num_blocks, **limits) -> None:
    reset(core, num_blocks, **limits)
    chosen = random.Random(seed)
    jobs = [make_job(chosen, index, most_prompt=24, most_output=12) for index in range(num_jobs)]
    answers, aborted = play(core, jobs)
    assert_all_is_settled(core, jobs, answers, aborted)
    assert_same_alone(core, jobs[:2], answers, aborted)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_abort_frees_everything_at_once(core, steps) -> None:
    """Waiting, in the middle of a long prompt, and decoding."""
    reset(core, num_blocks=40, max_batched_tokens=16)
    core.add(request("a", [3] * 30, SamplingParams(max_tokens=50, ignore_eos=True), "tree:6"))
    for _ in range(steps):
        core.step()
    core.abort("a")
    core.abort("a")
    core.abort("never seen")
    assert core.step() == []
    assert_all_is_settled(core, [], {}, set())
