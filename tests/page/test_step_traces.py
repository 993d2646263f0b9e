"""What the engine and the API tell of each step, and that asking changes nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
from collections.abc import Iterator

import httpx2
import openai
import pytest
from page.serving import chat_tokenizer, tiny_engine
from tiny_models import model_of, tiny_core

from cast_server.api import step_traces
from cast_server.engine import trace
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.errors import RequestError

PROMPT = tuple(chat_tokenizer()("the cat and the dog and the cat and the dog and")["input_ids"])
ASK = {"messages": [{"role": "user", "content": "the cat and the cat"}], "max_tokens": 40}


def run(core, traced: bool, policy: str = "tree:12", temperature: float = 0.0):
    params = SamplingParams(max_tokens=48, temperature=temperature, ignore_eos=True)
    wish = SpeculationParams(policy, trace=traced)
    core.add(Request("r", PROMPT, params, 7, wish))
    outputs = []
    while core.has_work:
        outputs += core.step()
    return outputs


@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_steps_explain_every_token(temperature: float) -> None:
    core = tiny_core(model_of("llama"))
    outputs = run(core, True, temperature=temperature)
    steps = [step for output in outputs for step in output.steps]
    tokens = [token for output in outputs for token in output.new_token_ids]
    assert [token for step in steps for token in step.token_ids] == tokens
    assert [step.ends_prompt for step in steps] == [True] + [False] * (len(steps) - 1)
    drafted = [step for step in steps if step.node_ids]
    assert drafted
    for step in drafted:
        assert all(parent < node for node, parent in enumerate(step.parents))
        path = itertools.pairwise((-1, *step.accepted))
        assert all(step.parents[node] == before for before, node in path)
        kept = [step.node_ids[node] for node in step.accepted]
        assert list(step.token_ids)[: len(kept)] == kept[: len(step.token_ids)]
        assert set(step.sources) == {"text"}
        for node, parent in enumerate(step.parents):
            above = 1.0 if parent < 0 else step.probabilities[parent]
            assert 0 < step.probabilities[node] <= above + 1e-12
    stats = outputs[-1].speculation
    assert stats.num_draft_tokens == sum(len(step.node_ids) for step in drafted)
    assert stats.num_accepted_draft_tokens == sum(len(step.accepted) for step in drafted)
    assert stats.num_accepted_draft_tokens > 0


def test_a_trace_changes_no_token_and_is_made_for_those_who_ask_only() -> None:
    plain, traced = (run(tiny_core(model_of("llama")), asked) for asked in (False, True))
    assert [one.new_token_ids for one in plain] == [one.new_token_ids for one in traced]
    assert all(not one.steps for one in plain)
    assert all(one.steps for one in traced)
    assert pickle.loads(pickle.dumps(traced)) == traced


def test_times_go_on_and_are_positive() -> None:
    steps = [one.steps[0] for one in run(tiny_core(model_of("llama")), True)]
    arrivals = [step.since_arrival for step in steps]
    assert arrivals == sorted(arrivals)
    assert all(step.seconds > 0 and step.predicted_seconds > 0 for step in steps)
    assert {step.num_sequences for step in steps} == {1}


def test_nodes_are_bounded_but_never_the_accepted_ones(monkeypatch) -> None:
    full = run(tiny_core(model_of("llama")), True)
    monkeypatch.setattr(trace, "MAX_NODES", 3)
    cut = run(tiny_core(model_of("llama")), True)
    was_cut = False
    for one, other in zip(full, cut, strict=True):
        whole, short = one.steps[0], other.steps[0]
        assert len(short.node_ids) <= max(3, len(short.accepted))
        assert len(short.node_ids) + short.num_left_out == len(whole.node_ids)
        was_cut |= short.num_left_out > 0
        assert [short.node_ids[n] for n in short.accepted] == [
            whole.node_ids[n] for n in whole.accepted
        ]
    assert was_cut


def test_what_others_were_answered_is_not_traced() -> None:
    drafter = type("Learning", (), {"traffic": object()})()
    params, wish = SamplingParams(), SpeculationParams(trace=True)
    with pytest.raises(RequestError, match="learn-from-traffic"):
        trace.check_traceable(Request("r", (1,), params, 0, wish), drafter)
    trace.check_traceable(Request("r", (1,), params, 0, wish, owner="me"), drafter)
    trace.check_traceable(Request("r", (1,), params, 0), drafter)


def test_the_engine_refuses_such_a_trace(engine, monkeypatch) -> None:
    monkeypatch.setattr(engine._core.drafter, "traffic", object(), raising=False)
    request = Request("r", PROMPT, SamplingParams(), 0, SpeculationParams(trace=True))
    with pytest.raises(RequestError, match=r"speculation\.trace"):
        engine.check(request)


@pytest.fixture
def client(address) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="-", max_retries=0) as client:
        yield client


def with_trace(policy: str = "tree:8", trace: bool = True) -> dict[str, object]:
    return {"extra_body": {"speculation": {"policy": policy, "trace": trace}}}


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_a_stream_tells_steps_beside_its_tokens(client, temperature) -> None:
    ask = ASK | {"model": "tiny", "temperature": temperature, "seed": 3}
    plain = client.chat.completions.create(**ask, **with_trace(trace=False))
    assert not hasattr(plain, "speculation")
    chunks = list(client.chat.completions.create(**ask, **with_trace(), stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    told = [chunk.speculation for chunk in chunks if hasattr(chunk, "speculation")]
    steps = [step for one in told for step in one["steps"]]
    assert [step["step"] for step in steps] == list(range(len(steps)))
    assert sum(len(step["tokens"]) for step in steps) == plain.usage.completion_tokens
    joined = "".join(token for step in steps for token in step["tokens"])
    assert joined.removesuffix("<|end|>").rstrip("\ufffd") == text.rstrip("\ufffd")
    for step in steps:
        for node in step["accepted"]:
            assert step["nodes"][node]["accepted"]
        assert sum(node["accepted"] for node in step["nodes"]) == len(step["accepted"])


def test_an_answer_tells_all_its_steps_too(client) -> None:
    ask = ASK | {"model": "tiny", "temperature": 0, "n": 2}
    answer = client.chat.completions.create(**ask, **with_trace())
    steps = answer.speculation["steps"]
    assert {step["index"] for step in steps} == {0, 1}
    assert sum(len(step["tokens"]) for step in steps) == answer.usage.completion_tokens
    assert answer.speculation["num_steps_left_out"] == 0


def test_an_answer_keeps_so_many_steps_only(client, monkeypatch) -> None:
    monkeypatch.setattr(step_traces, "MAX_STEPS", 4)
    ask = ASK | {"model": "tiny", "temperature": 0}
    told = client.chat.completions.create(**ask, **with_trace("off")).speculation
    assert [step["step"] for step in told["steps"]] == [0, 1, 2, 3]
    assert told["num_steps_left_out"] > 0


def test_completions_tell_steps_as_well(client) -> None:
    ask = {"model": "tiny", "prompt": "the cat and the", "max_tokens": 24, "temperature": 0}
    whole = client.completions.create(**ask, **with_trace())
    chunks = list(client.completions.create(**ask, **with_trace(), stream=True))
    assert "".join(c.text for chunk in chunks for c in chunk.choices) == whole.choices[0].text
    streamed = [
        s["tokens"] for c in chunks for s in getattr(c, "speculation", {"steps": ()})["steps"]
    ]
    assert streamed == [step["tokens"] for step in whole.speculation["steps"]]


def test_a_wish_that_is_no_boolean_is_refused(address) -> None:
    body = ASK | {"speculation": {"trace": "yes"}}
    answer = httpx2.post(f"{address}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "speculation.trace"


def test_status_tells_load_and_costs(address, engine) -> None:
    status = httpx2.get(f"{address}/v1/status").json()
    assert status["model"] == "tiny"
    assert status["num_running"] == status["num_waiting"] == 0
    assert status["kv_tokens"] == 4096
    assert {"name": "chain", "default_size": 4} in status["policies"]
    assert status["default_policy"] == "cast"
    assert status["sources"] == ["text"]
    cost = status["cost"]
    assert not cost["is_measured"]  # nobody has profiled the tiny model
    assert len(cost["rows"]) == len(cost["seconds"]) == len(cost["profile_seconds"])
    assert status["drift"] > 0


def test_status_counts_what_runs() -> None:
    async def watch(engine):
        params = SamplingParams(max_tokens=400, ignore_eos=True)
        outputs = engine.generate(Request("busy", PROMPT, params, 0))
        async for output in outputs:
            if output.num_output_tokens > 20:
                busy = engine.status()
                break
        await outputs.aclose()
        return busy

    with tiny_engine() as engine:
        busy = asyncio.run(watch(engine))
    assert busy.num_running == 1
    assert busy.kv_tokens_used > len(PROMPT)
    assert busy.tokens_per_second > 0
    json.dumps(busy.kv_tokens_used)
