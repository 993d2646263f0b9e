"""Server-sent events of both endpoints."""

from __future__ import annotations

import json

import openai
import pytest

from cast_server.engine.request import SpeculationStats
from cast_server.errors import EngineFailureError

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
BASE = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}], "stream": True},
    TEXT: {"prompt": "hi", "stream": True},
}
USAGE = {"stream_options": {"include_usage": True}}


def stream(http, path, **fields) -> tuple[list[dict], str]:
    """All JSON events, and the stream's text."""
    answer = http.post(path, json=BASE[path] | fields)
    assert answer.status_code == 200, answer.text
    events = answer.text.split("\n\n")
    assert events.pop() == ""
    assert events.pop() == "data: [DONE]"
    assert all(event.startswith("data: {") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events], answer.text


def choices(chunks: list[dict]) -> list[dict]:
    return [choice for chunk in chunks for choice in chunk["choices"]]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_headers_forbid_buffering(http, path) -> None:
    headers = http.post(path, json=BASE[path]).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_events_end_by_a_blank_line_and_the_stream_by_done(http, path) -> None:
    _, text = stream(http, path)
    assert text.endswith("}\n\ndata: [DONE]\n\n")


def test_chat_chunks_in_full(http) -> None:
    chunks, _ = stream(http, CHAT)
    rest = {"index": 0, "logprobs": None, "finish_reason": None, "stop_reason": None}
    assert choices(chunks) == [
        rest | {"delta": {"role": "assistant", "content": ""}},
        rest | {"delta": {"content": "Hello"}},
        rest | {"delta": {"content": " world"}},
        rest | {"delta": {}, "finish_reason": "stop"},
    ]


def test_completion_chunks_in_full(http) -> None:
    chunks, _ = stream(http, TEXT)
    rest = {"index": 0, "logprobs": None, "finish_reason": None, "stop_reason": None}
    assert choices(chunks) == [
        rest | {"text": "Hello"},
        rest | {"text": " world"},
        rest | {"text": "", "finish_reason": "stop"},
    ]


@pytest.mark.parametrize(
    ("path", "kind", "prefix"),
    [(CHAT, "chat.completion.chunk", "chatcmpl-"), (TEXT, "text_completion", "cmpl-")],
)
def test_all_chunks_have_one_head(http, path, kind, prefix) -> None:
    chunks, _ = stream(http, path, n=2, **USAGE)
    assert {chunk["object"] for chunk in chunks} == {kind}
    assert {chunk["model"] for chunk in chunks} == {"org/tiny"}
    assert len({chunk["created"] for chunk in chunks}) == 1
    [answer_id] = {chunk["id"] for chunk in chunks}
    assert answer_id.startswith(prefix)


def test_roles_come_first_and_once_and_in_order(http, engine) -> None:
    engine.script = engine.saying("a", "b", delay=lambda copy: 0.01 * (3 - copy))
    news = choices(stream(http, CHAT, n=3)[0])
    assert [choice["index"] for choice in news[:3]] == [0, 1, 2]
    assert all(choice["delta"]["role"] == "assistant" for choice in news[:3])
    assert not any("role" in choice["delta"] for choice in news[3:])


def test_copies_are_merged_as_they_arrive(http, engine) -> None:
    engine.script = engine.saying("a", "b", delay=lambda copy: [0.12, 0.0, 0.0][copy])
    news = choices(stream(http, CHAT, n=3)[0])[3:]
    assert {choice["index"] for choice in news[:6]} == {1, 2}
    assert {choice["index"] for choice in news[6:]} == {0}


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_each_choice_ends_once_and_with_its_own_reason(http, engine, path) -> None:
    def script(request):
        finish = ["stop", "length", "stop"][engine.copy_of(request)]
        return engine.saying("a", finish=finish)(request)

    engine.script = script
    ends = [c for c in choices(stream(http, path, n=3)[0]) if c["finish_reason"] is not None]
    assert {c["index"]: c["finish_reason"] for c in ends} == {0: "stop", 1: "length", 2: "stop"}
    assert len(ends) == 3


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_steps_without_text_send_nothing(http, engine, path) -> None:
    engine.script = engine.saying("a", "", "", "b", "")
    texts = [
        c.get("text") or c.get("delta", {}).get("content") for c in choices(stream(http, path)[0])
    ]
    assert [text for text in texts if text] == ["a", "b"]
    assert len(texts) == (4 if path == CHAT else 3)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_usage_comes_in_a_chunk_of_its_own_if_asked_for(http, path) -> None:
    *others, last = stream(http, path, n=2, **USAGE)[0]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 22
    assert all(chunk["usage"] is None for chunk in others)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_usage_so_far_is_in_every_chunk_if_asked_for(http, engine, path) -> None:
    engine.script = engine.saying("ab", "c", "def")
    options = USAGE["stream_options"] | {"continuous_usage_stats": True}
    *others, last = stream(http, path, stream_options=options)[0]
    told = [chunk["usage"]["completion_tokens"] for chunk in others]
    assert told == sorted(told)
    assert {*told} >= {2, 3, 6}
    assert others[-1]["usage"] == last["usage"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("options", [{}, {"include_usage": False}, None])
def test_usage_is_absent_if_not_asked_for(http, path, options) -> None:
    chunks, _ = stream(http, path, stream_options=options)
    assert not any("usage" in chunk for chunk in chunks)
    assert chunks[-1]["choices"] != []


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_streamed_usage_equals_the_other(http, engine, path) -> None:
    engine.script = engine.saying("a", "b", num_cached_tokens=1)
    streamed = stream(http, path, n=2, **USAGE)[0][-1]
    whole = http.post(path, json=BASE[path] | {"stream": False, "n": 2}).json()
    assert streamed["usage"] == whole["usage"]
    assert streamed["metrics"] == whole["metrics"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("options", [{}, USAGE])
def test_metrics_are_on_the_last_chunk_only(http, engine, path, options) -> None:
    engine.script = engine.saying("a", "b", speculation=SpeculationStats(2, 4, 1, (1, 1)))
    *others, last = stream(http, path, n=2, **options)[0]
    assert last["metrics"]["speculative_decoding"]["num_draft_tokens"] == 8
    assert not any("metrics" in chunk for chunk in others)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (EngineFailureError("The KV cache is gone."), "The KV cache is gone.", "internal_error"),
        (KeyError("secret"), "The server had an error", "internal_error"),
    ],
)
def test_failure_in_mid_stream_is_an_event_before_done(
    http, engine, path, error, message, code
) -> None:
    engine.script = engine.failing(error, after=("Hel",))
    chunks, text = stream(http, path)
    assert chunks[-1]["error"]["message"].startswith(message)
    assert (chunks[-1]["error"]["type"], chunks[-1]["error"]["code"]) == ("server_error", code)
    assert "Hel" in text
    assert "secret" not in text


def test_official_client_reads_the_message_of_a_failure_in_mid_stream(client, engine) -> None:
    engine.script = engine.failing(EngineFailureError("The KV cache is gone."), after=("Hel",))
    with pytest.raises(openai.APIError, match=r"The KV cache is gone\."):
        list(client.chat.completions.create(model="org/tiny", **BASE[CHAT]))


def test_failure_of_one_copy_aborts_the_others(http, engine, eventually) -> None:
    def script(request):
        if engine.copy_of(request) == 1:
            return engine.failing(EngineFailureError("broken"), after=("a",))(request)
        return engine.never_ending()(request)

    engine.script = script
    chunks, _ = stream(http, CHAT, n=3)
    assert chunks[-1]["error"]["message"] == "broken"
    eventually(lambda: {name[-2:] for name in engine.aborted} >= {"-0", "-2"})


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_a_request_that_the_engine_gives_up_is_a_failure(http, engine, finish) -> None:
    engine.script = engine.saying("Hel", finish=finish)
    assert stream(http, CHAT)[0][-1]["error"]["code"] == "internal_error"


def test_a_request_that_the_engine_forgets_is_a_failure(http, engine) -> None:
    engine.script = engine.saying("Hel", finish=None)
    assert stream(http, CHAT)[0][-1]["error"]["code"] == "internal_error"


def test_refusal_before_the_stream_has_its_own_status(http, engine) -> None:
    answer = http.post(CHAT, json=BASE[CHAT] | {"temperature": -1})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"


def test_text_reaches_the_client_while_the_engine_still_works(client, engine, eventually) -> None:
    engine.script = engine.never_ending("word ")
    with client.completions.create(model="org/tiny", **BASE[TEXT]) as chunks:
        assert next(iter(chunks)).choices[0].text == "word "
    eventually(lambda: len(engine.aborted) == 1)


def test_official_clients_chat_helper_reassembles_the_answer(client, engine) -> None:
    engine.script = engine.saying("Hel", "lo ", "🦜", delay=lambda copy: 0.005 * (2 - copy))
    with client.chat.completions.stream(
        model="org/tiny",
        messages=BASE[CHAT]["messages"],
        n=2,
        stream_options={"include_usage": True},
    ) as events:
        for _ in events:
            pass
        answer = events.get_final_completion()
    assert [choice.message.content for choice in answer.choices] == ["Hello 🦜"] * 2
    assert [choice.message.role for choice in answer.choices] == ["assistant"] * 2
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 2
    assert answer.usage.completion_tokens == 20
