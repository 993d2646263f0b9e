"""Background work beside requests: its share of the time, who gives way, and reading texts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace

import pytest
import tiny_models
import torch
from engine.driving import request, run
from hypothesis import given
from hypothesis import strategies as st

from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.background import BACKGROUND_ROWS
from cast_server.engine.embedding import embed
from cast_server.engine.reading import Wish, read
from cast_server.engine.request import SamplingParams
from cast_server.engine.share import Share
from cast_server.errors import EngineFailureError

GREEDY = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


def core_of(**sizes):
    return tiny_models.tiny_core(tiny_models.randomised(tiny_models.llama), **sizes)


def background(one):
    return replace(one, is_background=True)


def finish(job):
    """Runs a job by itself."""
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


# The share


@given(st.lists(st.floats(0.001, 0.1), min_size=200, max_size=200), st.floats(0.05, 0.5))
def test_the_share_is_kept(seconds, most) -> None:
    share = Share(most)
    other = background = 0.0
    for one in seconds:
        if share.is_due:
            share.spend(one)
            background += one
        else:
            share.earn(one)
            other += one
    assert background <= most * (other + background) + 0.1
    assert background >= most * (other + background) - 0.4


def test_alone_it_has_all_the_time() -> None:
    core = core_of()
    answers = run(core, [background(request("a", [1, 2, 3], GREEDY))])
    assert len(answers["a"].tokens) == 24


def test_beside_others_it_has_its_share_and_no_more() -> None:
    """Steps of the tiny model take about the same time, so shares of steps tell."""
    core = core_of()
    long = replace(GREEDY, max_tokens=300)
    core.add(request("live", [1, 2, 3], long))
    core.add(background(request("back", [4, 5, 6], long)))
    counts = {"live": 0, "back": 0}
    while counts["live"] < 250:
        for output in core.step():
            counts[output.request_id] += len(output.new_token_ids)
    assert 5 < counts["back"] < 0.3 * counts["live"]


def test_the_same_tokens_in_the_background() -> None:
    prompts = [[1, 2, 3], [9] * 40, [5, 6, 7, 8]]
    requests = [request(str(i), prompt, GREEDY, "tree:4") for i, prompt in enumerate(prompts)]
    expected = run(core_of(), requests)
    mixed = [background(one) if i % 2 else one for i, one in enumerate(requests)]
    answers = run(core_of(), mixed)
    assert {k: a.tokens for k, a in answers.items()} == {k: a.tokens for k, a in expected.items()}


def test_background_gives_way_first() -> None:
    sizes = {"kv_cache_tokens": 128, "max_model_len": 96}
    patient = background(request("back", range(40), replace(GREEDY, max_tokens=40)))
    urgent = request("live", range(100, 130), replace(GREEDY, max_tokens=64))
    expected = run(core_of(**sizes), [patient, urgent], concurrency=1)
    core = core_of(**sizes)
    core.add(patient)
    while not (first := core.step()):  # its prompt takes more than one slice
        pass
    core.add(urgent)
    tokens = {"back": [*first[0].new_token_ids], "live": []}
    ended = []
    while core.has_work:
        for output in core.step():
            tokens[output.request_id] += output.new_token_ids
            if output.finish_reason is not None:
                ended.append(output.request_id)
    assert core.background.scheduler.num_preemptions > 0
    assert core.scheduler.num_preemptions == 0
    assert ended == ["live", "back"]
    assert tokens == {name: answer.tokens for name, answer in expected.items()}


def test_what_waits_for_blocks_costs_others_next_to_nothing() -> None:
    """A request holds the whole cache; a text and a background request wait for it to end."""
    core = core_of(kv_cache_tokens=128, max_model_len=128)
    core.add(request("live", range(20), replace(GREEDY, max_tokens=100)))
    live = core.scheduler.waiting[0]
    live.reserve(core.scheduler.pool, 128)
    core.background.share.earn(10.0)
    core.background.add("job", _dropped(read(core, list(range(100)), Wish((1,)))))
    core.add(background(request("back", range(30), GREEDY)))
    ended, steps = [], 0
    while core.has_work:
        outputs = core.step()
        steps += not ended
        ended += [output.request_id for output in outputs if output.finish_reason is not None]
    assert ended == ["live", "back"]
    assert steps < 100 + 60


def _dropped(job):
    yield from job


# Calls


def _counted(counts, name, count):
    while counts[name] < count:
        yield
        counts[name] += 1


def test_a_call_gets_more_than_a_job_and_leaves_others_theirs() -> None:
    """A slice of these takes no time, and is counted as five milliseconds then."""
    core = core_of()
    counts = {"call": 0, "job": 0, "live": 0}
    core.background.add("job", _counted(counts, "job", 10**6))
    core.background.add("call", _counted(counts, "call", 10**6), is_call=True)
    core.add(request("live", [1, 2, 3], replace(GREEDY, max_tokens=200)))
    while counts["live"] < 200:
        counts["live"] += sum(len(output.new_token_ids) for output in core.step())
    alone = core_of()
    alone_counts = {"job": 0, "live": 0}
    alone.background.add("job", _counted(alone_counts, "job", 10**6))
    alone.add(request("live", [1, 2, 3], replace(GREEDY, max_tokens=200)))
    while alone_counts["live"] < 200:
        alone_counts["live"] += sum(len(output.new_token_ids) for output in alone.step())
    assert abs(counts["call"] - counts["job"]) <= 1  # every other turn
    assert counts["call"] + counts["job"] > 3 * alone_counts["job"]


@pytest.mark.parametrize("holder", ["sequence", "job"])
def test_a_call_may_wait_for_blocks_that_other_background_work_holds(holder) -> None:
    core = core_of(kv_cache_tokens=128, max_model_len=128)
    if holder == "sequence":
        core.add(background(request("back", range(100), replace(GREEDY, max_tokens=20))))
    else:
        core.background.add("job", _dropped(read(core, list(range(100)), Wish((1,)))))
    core.step()
    core.step()
    assert core.scheduler.pool.num_free < 25
    vectors = []

    def call():
        vectors.append((yield from embed(core, list(range(100)))))

    core.background.add("call", call(), is_call=True)
    for _ in range(200):
        if core.has_work:
            core.step()
    assert not core.has_work
    assert len(vectors) == 1
    assert core.scheduler.pool.num_free == core.scheduler.pool.num_blocks


def test_a_background_step_is_short() -> None:
    """Its drafts too: others may be waiting for its end."""
    core = core_of(max_draft_rows=200, kv_cache_tokens=4096)
    wide = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True)
    for name in ("a", "b"):
        core.add(background(request(name, [5, 6, 7] * 8, wide, "tree:200")))
    while core.has_work:
        core.step()
    rows = [record.rows for record in core.planner.meter.recent]
    assert max(rows) > 2
    assert max(rows) <= BACKGROUND_ROWS


# Reading


@pytest.mark.parametrize("make", [tiny_models.llama, tiny_models.qwen3, tiny_models.qwen2])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
def test_reads_what_transformers_reads(make, length: int) -> None:
    model = tiny_models.randomised(make)
    ids = [(7 * i) % 300 for i in range(length)]
    with torch.inference_mode():
        own = model(torch.tensor([ids]), output_hidden_states=True)
    logprobs_NV = own.logits[0].float().log_softmax(-1)
    expected = [hidden[0].float() for hidden in own.hidden_states]
    core = tiny_models.tiny_core(tiny_models.randomised(make))
    num_layers = len(expected) - 1
    among = torch.tensor([3, 0, 299])
    got = finish(read(core, ids, Wish(tuple(range(num_layers)), True, among)))
    for layer in range(num_layers):
        torch.testing.assert_close(got.layers[layer], expected[layer], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.normed_NE, expected[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.among_NI, logprobs_NV[:, among].exp(), atol=1e-5, rtol=1e-4)
    next_P = logprobs_NV[:-1].gather(1, torch.tensor(ids[1:])[:, None].long())[:, 0]
    torch.testing.assert_close(got.logprobs_P, next_P, atol=1e-4, rtol=1e-4)
    assert core.scheduler.pool.num_free == core.scheduler.pool.num_blocks


def test_reading_changes_no_other_request() -> None:
    requests = [request("a", [1, 2, 3], GREEDY, "tree:6"), request("b", [8] * 50, GREEDY)]
    expected = run(core_of(), requests)
    core = core_of()
    got = []

    def job():
        got.append((yield from read(core, list(range(100)), Wish((1,)))))

    core.background.add("job", job())
    for one in requests:
        core.add(one)
    tokens = {one.id: [] for one in requests}
    while core.has_work:
        for output in core.step():
            tokens[output.request_id] += output.new_token_ids
    assert tokens == {name: answer.tokens for name, answer in expected.items()}
    alone = finish(read(core_of(), list(range(100)), Wish((1,))))
    torch.testing.assert_close(got[0].layers[0], alone.layers[0])


# Jobs of an event loop


@pytest.fixture
def engine():
    engine = AsyncEngine(core_of(), "tiny")
    engine.start()
    yield engine
    engine.stop()


def test_a_job_returns_and_raises(engine) -> None:
    def sums(core):
        yield
        return 2 + 2

    def fails(core):
        yield
        raise KeyError("lost")

    async def both():
        with pytest.raises(KeyError, match="lost"):
            await engine.work(fails)
        return await engine.work(sums)

    assert asyncio.run(both()) == 4


def test_cancelling_closes_the_job(engine) -> None:
    closed = []

    def endless(core):
        blocks = core.scheduler.pool.allocate(3)
        try:
            while True:
                yield
        finally:
            core.scheduler.pool.release(blocks)
            closed.append(True)

    async def cancelled():
        task = asyncio.create_task(engine.work(endless))
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    deadline = time.monotonic() + 5
    while not closed:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stopped_engine_ends_its_jobs(engine) -> None:
    def endless(core):
        while True:
            yield

    async def stopped():
        task = asyncio.create_task(engine.work(endless))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(engine.stop)
        with pytest.raises(EngineFailureError):
            await task
        with pytest.raises(EngineFailureError):
            await engine.work(endless)

    asyncio.run(stopped())
