"""The engine thread as an event loop sees it: streams, aborts, failures, refusals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

import pytest
import tiny_models
from engine.driving import request, run

from cast_drafters.ngram import NgramDrafter
from cast_server.engine.async_engine import AsyncEngine
from cast_server.engine.request import SamplingParams, SpeculationParams
from cast_server.errors import (
    ContextLengthError,
    EngineFailureError,
    EngineOverloadedError,
    RequestError,
)

LONG = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)
SHORT = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture
def core():
    model = tiny_models.randomised(tiny_models.llama)
    return tiny_models.tiny_core(model, max_num_seqs=4)


@pytest.fixture
def engine(core):
    engine = AsyncEngine(core, "tiny", max_waiting=2)
    engine.start()
    yield engine
    engine.stop()


async def read(engine, one) -> tuple[list[int], list]:
    outputs = [output async for output in engine.generate(one)]
    return [token for output in outputs for token in output.new_token_ids], outputs


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


def is_idle(core) -> bool:
    pool = core.scheduler.pool
    return not core.has_work and pool.num_free == pool.num_blocks


def test_two_streams_at_once(core, engine) -> None:
    requests = [request("a", [1, 2, 3], SHORT, "tree:4"), request("b", [4] * 20, SHORT)]

    async def both():
        return await asyncio.gather(*(read(engine, one) for one in requests))

    results = asyncio.run(both())
    for one, (tokens, outputs) in zip(requests, results, strict=True):
        assert len(tokens) == 12
        assert {output.request_id for output in outputs} == {one.id}
        assert [o.finish_reason for o in outputs] == [None] * (len(outputs) - 1) + ["length"]
        assert len(outputs) > 2
    engine.stop()
    assert not engine.is_alive
    alone = run(core, requests, concurrency=1)
    assert [tokens for tokens, _ in results] == [alone["a"].tokens, alone["b"].tokens]


@pytest.fixture
def _slow_steps(core, monkeypatch):
    """So that a long request cannot end by itself before it is aborted."""
    forward = core.runner.forward

    def slow(batch):
        time.sleep(0.005)
        return forward(batch)

    monkeypatch.setattr(core.runner, "forward", slow)


@pytest.mark.usefixtures("_slow_steps")
def test_closing_an_iterator_aborts(core, engine) -> None:
    async def leave():
        async with aclosing(engine.generate(request("a", [1, 2, 3], LONG))) as outputs:
            async for _ in outputs:
                break
            sequence = core._sequences["a"]
        await until(lambda: is_idle(core))
        assert sequence.num_output < LONG.max_tokens
        assert sequence.finish_reason is None
        return await read(engine, request("b", [1, 2, 3], SHORT))

    tokens, _ = asyncio.run(leave())
    assert len(tokens) == 12
    assert not engine._streams


@pytest.mark.usefixtures("_slow_steps")
def test_cancelling_the_reader_aborts(core, engine) -> None:
    async def cancel():
        task = asyncio.create_task(read(engine, request("a", [1, 2, 3], LONG)))
        await until(lambda: core.has_work)
        sequence = core._sequences["a"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: is_idle(core))
        assert sequence.finish_reason is None

    asyncio.run(cancel())
    assert not engine._streams


class FailingOnce(NgramDrafter):
    """Raises in its first call of `method`."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method: str | None = method

    def _fail(self, method: str) -> None:
        if self._method == method:
            self._method = None
            raise RuntimeError("a broken drafter")

    def begin(self, request_id, token_ids):
        self._fail("begin")
        super().begin(request_id, token_ids)

    def propose(self, contexts, gate=None):
        self._fail("propose")
        return super().propose(contexts, gate)

    def observe(self, results):
        if results:
            self._fail("observe")

    def release(self, request_id):
        self._fail("release")
        super().release(request_id)


REPETITIVE = [5, 6, 7, 8] * 6


@pytest.mark.parametrize("method", ["propose", "release"])
def test_a_drafter_that_fails_beside_the_tokens_costs_no_request(core, engine, method) -> None:
    core.drafter = FailingOnce(method)
    tokens, outputs = asyncio.run(read(engine, request("a", REPETITIVE, SHORT, "tree:4")))
    assert core.drafter._method is None
    assert (len(tokens), outputs[-1].finish_reason) == (12, "length")
    assert is_idle(core)


@pytest.mark.parametrize("method", ["begin", "observe"])
def test_a_failure_ends_the_requests_it_hit_and_no_other(core, engine, method) -> None:
    core.drafter = FailingOnce(method)
    asyncio.run(fail_then_work(core, engine, request("a", REPETITIVE, LONG, "tree:4")))


async def fail_then_work(core, engine, unlucky) -> None:
    _, outputs = await read(engine, unlucky)
    assert outputs[-1].finish_reason == "error"
    assert isinstance(outputs[-1].error, EngineFailureError)
    assert outputs[-1].error.status == 500
    await until(lambda: is_idle(core))
    tokens, outputs = await read(engine, request("b", [1, 2], SHORT, "tree:4"))
    assert (len(tokens), outputs[-1].finish_reason) == (12, "length")
    assert engine.is_alive


def test_a_request_that_breaks_its_steps_does_not_take_others_along(
    core, engine, monkeypatch
) -> None:
    forward, poison = core.runner.forward, 311

    def fail_on_poison(batch):
        if poison in batch.input_ids_N.tolist():
            raise RuntimeError("poison")
        return forward(batch)

    monkeypatch.setattr(core.runner, "forward", fail_on_poison)

    async def together():
        others = [read(engine, request(f"ok{i}", [i, 2, 3], SHORT, "tree:4")) for i in range(3)]
        poisoned = read(engine, request("bad", [1, poison], SHORT))
        return await asyncio.gather(poisoned, *others)

    (no_tokens, outputs), *others = asyncio.run(together())
    assert no_tokens == []
    assert [output.finish_reason for output in outputs] == ["error"]
    assert [(len(tokens), out[-1].finish_reason) for tokens, out in others] == [(12, "length")] * 3
    assert is_idle(core)


@pytest.mark.usefixtures("_slow_steps")
def test_stop_ends_streams_with_an_error(core, engine) -> None:
    async def stop_amid():
        names = ("a", "b")
        tasks = [asyncio.create_task(read(engine, request(n, [1, 2], LONG))) for n in names]
        await until(lambda: core.has_work)
        await asyncio.to_thread(engine.stop)
        late = await read(engine, request("late", [1], SHORT))
        return [*(await asyncio.gather(*tasks)), late]

    for _, outputs in asyncio.run(stop_amid()):
        assert outputs[-1].finish_reason == "error"
        assert isinstance(outputs[-1].error, EngineFailureError)
    assert not engine.is_alive


def test_stop_before_start_and_twice(core) -> None:
    engine = AsyncEngine(core, "tiny")
    engine.stop()
    assert not engine.is_alive
    engine.start()
    engine.stop()
    engine.stop()
    assert not engine.is_alive


def test_check_accepts_what_just_fits(engine) -> None:
    assert engine.max_model_len == 256
    engine.check(request("a", [0] * 240, SamplingParams(max_tokens=16), "tree:8"))
    biased = SamplingParams(max_tokens=1, logit_bias={319: 1.0}, stop_token_ids=(319,))
    engine.check(request("a", [319], biased, "chain"))


@pytest.mark.parametrize(
    ("one", "kind", "param"),
    [
        (request("a", [], SHORT), RequestError, "prompt"),
        (request("a", [1, 320], SHORT), RequestError, None),
        (request("a", [-1], SHORT), RequestError, None),
        (request("a", [1], SamplingParams(logit_bias={320: 1.0})), RequestError, None),
        (request("a", [1], SamplingParams(stop_token_ids=(320,))), RequestError, None),
        (request("a", [0] * 245, SHORT), ContextLengthError, "prompt"),
        (request("a", [0], SHORT, "oracle"), RequestError, "speculation"),
        (request("a", [0], SHORT, "tree:0"), RequestError, "speculation"),
    ],
)
def test_check_refuses(engine, one, kind, param) -> None:
    with pytest.raises(RequestError) as refusal:
        engine.check(one)
    assert type(refusal.value) is kind
    assert refusal.value.param == param
    assert refusal.value.status == 400


def test_check_refuses_a_negative_count_of_drafts(engine) -> None:
    one = request("a", [1], SHORT)
    object.__setattr__(one, "speculation", SpeculationParams("tree", -1))
    with pytest.raises(RequestError, match="max_draft_tokens"):
        engine.check(one)


def test_the_cache_bounds_the_context_too() -> None:
    model = tiny_models.randomised(tiny_models.llama)
    engine = AsyncEngine(tiny_models.tiny_core(model, kv_cache_tokens=64), "tiny")
    assert engine.max_model_len == 64
    with pytest.raises(ContextLengthError, match="64 tokens"):
        engine.check(request("a", [1] * 60, SHORT))


@pytest.mark.usefixtures("_slow_steps")
def test_overload_is_refused_and_passes(core, engine) -> None:
    async def crowd():
        streams = [engine.generate(request(str(i), [i], LONG)) for i in range(6)]
        for stream in streams[:4]:
            await anext(stream)
        first_waiting = [asyncio.create_task(anext(stream)) for stream in streams[4:]]
        await until(lambda: len(engine._streams) == 6)
        with pytest.raises(EngineOverloadedError) as refusal:
            engine.check(request("one more", [1], SHORT))
        assert refusal.value.status == 503
        await asyncio.gather(*first_waiting)
        for stream in streams:
            await stream.aclose()
        engine.check(request("one more", [1], SHORT))
        await until(lambda: is_idle(core))

    asyncio.run(crowd())
