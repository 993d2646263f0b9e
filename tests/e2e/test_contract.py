"""What clients of OpenAI's API rely on: one test for each behaviour, by the official client.

Behaviours that other servers are known to get wrong; the real model, over a real socket. Where the
client hides what is on the wire, a plain HTTP client looks at it too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest
from e2e.serving import MODEL

QUESTION = [{"role": "user", "content": "Name three colours."}]
CHAT = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
TEXT = {"model": MODEL, "prompt": "The sea is", "temperature": 0, "max_tokens": 24}
# So likely to go on that several tokens are accepted in one step, with stops in their middle.
REPEATING = "one two three four five six. " * 6


@pytest.fixture(scope="module")
def http(server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=60) as http:
        yield http


def events(http: httpx2.Client, path: str, body: dict[str, object]) -> list[str]:
    """The events of a stream as they are on the wire."""
    text = http.post(path, json=body | {"stream": True}).text
    assert text.endswith("\n\n")
    return text[:-2].split("\n\n")


def chunks(http: httpx2.Client, path: str, body: dict[str, object]) -> list[dict]:
    *told, done = events(http, path, body)
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in told if event[:1] != ":"]


def test_01_events_are_separated_by_a_blank_line(http, client) -> None:
    answer = http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert all(event.startswith("data: ") for event in answer.text[:-2].split("\n\n"))
    assert len(list(client.chat.completions.create(**CHAT, stream=True))) > 3


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)]
)
def test_02_a_stream_ends_with_done(http, path, body) -> None:
    told = events(http, path, body)
    assert told[-1] == "data: [DONE]"
    assert told.count("data: [DONE]") == 1


def test_03_proxies_are_told_not_to_buffer(http) -> None:
    answer = http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "data: \n" not in answer.text


def test_04_the_role_comes_first_and_once(client) -> None:
    deltas = [c.choices[0].delta for c in client.chat.completions.create(**CHAT, stream=True)]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert all(delta.role is None for delta in deltas[1:])


def test_05_choices_appear_in_their_order(client) -> None:
    many = CHAT | {"n": 3, "temperature": 1, "seed": 5}
    told = list(client.chat.completions.create(**many, stream=True))
    roles = [c.choices[0].index for c in told if c.choices[0].delta.role]
    assert roles == [0, 1, 2]
    # the helper takes an answer that is cut short for a failure
    short = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 400}
    with client.chat.completions.stream(**many | short) as stream:
        final = stream.get_final_completion()
    whole = client.chat.completions.create(**many | short)
    assert [c.message.content for c in final.choices] == [c.message.content for c in whole.choices]


def test_06_each_choice_ends_once_and_for_its_own_reason(client) -> None:
    told = client.chat.completions.create(**CHAT | {"max_tokens": 5}, stream=True)
    reasons = [c.choices[0].finish_reason for c in told]
    assert reasons[-1] == "length"
    assert all(reason is None for reason in reasons[:-1])
    hello = [{"role": "user", "content": "Say hello."}]
    short = client.chat.completions.create(**CHAT | {"messages": hello, "max_tokens": 200})
    assert short.choices[0].finish_reason == "stop"


def test_07_usage_comes_last_in_a_chunk_without_choices(client) -> None:
    asked = {"include_usage": True}
    told = list(client.chat.completions.create(**CHAT, stream=True, stream_options=asked))
    assert told[-1].choices == []
    assert told[-1].usage.completion_tokens == 24
    assert all(chunk.usage is None for chunk in told[:-1])
    for options in ({}, {"include_usage": False}):
        told = list(client.chat.completions.create(**CHAT, stream=True, stream_options=options))
        assert all(chunk.usage is None and chunk.choices for chunk in told)


def test_08_all_chunks_share_one_head(client) -> None:
    chat = list(client.chat.completions.create(**CHAT, stream=True))
    text = list(client.completions.create(**TEXT, stream=True))
    for told, kind, prefix in (
        (chat, "chat.completion.chunk", "chatcmpl-"),
        (text, "text_completion", "cmpl-"),
    ):
        assert len({(c.id, c.created, c.model, c.object) for c in told}) == 1
        assert told[0].object == kind
        assert told[0].id.startswith(prefix)
        assert told[0].model == MODEL


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_09_no_chunk_ends_in_the_middle_of_a_character(client, max_tokens) -> None:
    # each of these takes several tokens
    ask = TEXT | {"prompt": "🦜 🦚 🦜 🦚 🦜 🦚 🦜 🦚 🦜 🦚", "max_tokens": max_tokens}
    pieces = [c.choices[0].text for c in client.completions.create(**ask, stream=True)]
    assert "�" not in "".join(pieces[:-2])
    assert "".join(pieces) == client.completions.create(**ask).choices[0].text


@pytest.mark.parametrize("policy", ["off", "tree:8", "cast"])
def test_10_streamed_text_is_the_whole_text(client, policy) -> None:
    speculation = {"speculation": {"policy": policy}}
    ask = TEXT | {"prompt": REPEATING, "max_tokens": 40}
    pieces = [
        c.choices[0].text
        for c in client.completions.create(**ask, stream=True, extra_body=speculation)
    ]
    whole = client.completions.create(**ask, extra_body={"speculation": {"policy": "off"}})
    assert "".join(pieces) == whole.choices[0].text
    assert pieces[0].startswith(" ") == whole.choices[0].text.startswith(" ")


@pytest.mark.parametrize("is_included", [False, True])
def test_11_stop_strings_are_found_across_tokens(client, is_included) -> None:
    ask = TEXT | {"prompt": REPEATING, "max_tokens": 40}
    full = client.completions.create(**ask).choices[0].text
    stop = full[9:13]  # begins and ends within tokens
    extra = {"include_stop_str_in_output": is_included, "speculation": {"policy": "tree:16"}}
    kept = full[: full.index(stop) + (len(stop) if is_included else 0)]
    whole = client.completions.create(**ask, stop=[stop, "never"], extra_body=extra)
    assert whole.choices[0].text == kept
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens < 40
    told = list(client.completions.create(**ask, stop=stop, stream=True, extra_body=extra))
    assert "".join(c.choices[0].text for c in told) == kept


def test_12_an_accepted_block_ends_at_its_end_of_text(client) -> None:
    hello = CHAT | {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 60}
    plain = {"speculation": {"policy": "off"}}
    whole = client.chat.completions.create(**hello, extra_body=plain)
    drafted = client.chat.completions.create(
        **hello, extra_body={"speculation": {"policy": "tree:16"}}
    )
    assert whole.choices[0].finish_reason == drafted.choices[0].finish_reason == "stop"
    assert drafted.choices[0].message == whole.choices[0].message
    assert drafted.usage.completion_tokens == whole.usage.completion_tokens < 60
    for extra in ({"ignore_eos": True}, {"min_tokens": 60}):
        longer = client.chat.completions.create(**hello, extra_body=extra)
        assert longer.usage.completion_tokens == 60


def test_13_stop_has_many_forms(client, http) -> None:
    for stop in (None, [], "zzzz", ["zzzz"], [f"z{i}" for i in range(8)]):
        whole = client.completions.create(**TEXT, stop=stop)
        assert whole.usage.completion_tokens == 24
    with pytest.raises(openai.BadRequestError) as empty:
        client.completions.create(**TEXT, stop="")
    assert empty.value.param == "stop"


def test_14_every_failure_has_one_shape(http) -> None:
    for method, path, body, status in (
        ("POST", "/v1/chat/completions", CHAT | {"temperature": "hot"}, 400),
        ("POST", "/v1/chat/completions", [], 400),
        ("POST", "/v1/chat/completions", CHAT | {"model": "gpt-9"}, 404),
        ("GET", "/v1/nothing", None, 404),
        ("DELETE", "/v1/chat/completions", None, 405),
    ):
        answer = http.request(method, path, json=body)
        assert answer.status_code == status
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["code"] is None or isinstance(error["code"], str)


def test_15_an_unknown_model_is_not_found(client) -> None:
    with pytest.raises(openai.NotFoundError, match=r"The model `gpt-9` does not exist") as unknown:
        client.chat.completions.create(**CHAT | {"model": "gpt-9"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("some/other")
    assert client.models.retrieve(MODEL).id == MODEL


def test_16_a_request_that_is_too_long_says_so_in_known_words(client) -> None:
    long = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(openai.BadRequestError) as chat:
        client.chat.completions.create(**CHAT | {"messages": long})
    with pytest.raises(openai.BadRequestError) as text:
        client.completions.create(**TEXT | {"prompt": "word " * 5000})
    assert (chat.value.param, text.value.param) == ("messages", "prompt")
    for error in (chat.value, text.value):
        assert error.code == "context_length_exceeded"
        assert "context_length_exceeded" in str(error)  # where LangChain looks
        assert "maximum context length is 4096 tokens" in str(error)  # where LiteLLM looks


def test_17_users_errors_are_not_sent_again(server) -> None:
    sent = []
    transport = httpx2.Client(event_hooks={"request": [sent.append]})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", http_client=transport)
    with client, pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**CHAT | {"top_p": 7})
    assert len(sent) == 1


def test_18_a_failure_in_mid_stream_is_an_event_before_done(client, http) -> None:
    hasty = TEXT | {"max_tokens": 900, "ignore_eos": True, "timeout": 0.5}
    *_, failure, done = events(http, "/v1/completions", hasty)
    error = json.loads(failure.removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert done == "data: [DONE]"
    extra = {"timeout": 0.5, "ignore_eos": True}
    stream = client.completions.create(**TEXT | {"max_tokens": 900}, stream=True, extra_body=extra)
    with pytest.raises(openai.APIError) as cut:
        list(stream)
    assert cut.value.message == error["message"]


def test_19_every_answer_has_a_request_id(client, http) -> None:
    own = {"x-request-id": "my-own-id"}
    assert client.chat.completions.create(**CHAT, extra_headers=own)._request_id == "my-own-id"
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**CHAT | {"top_p": 7})
    assert error.value.request_id
    assert http.post("/v1/completions", json=TEXT | {"stream": True}).headers["x-request-id"]


def test_20_echo_gives_the_prompts_log_probabilities(client) -> None:
    ask = TEXT | {"echo": True, "logprobs": 1}
    for length in (0, 1):
        told = client.completions.create(**ask | {"max_tokens": length}).choices[0]
        logprobs = told.logprobs
        assert told.text.startswith("The sea is")
        assert logprobs.token_logprobs[0] is None
        assert all(value <= 0 for value in logprobs.token_logprobs[1:])
        assert "".join(logprobs.tokens) == told.text
        at = 0
        for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
            assert offset == at
            at += len(token)
    ids = [[504, 2842, 314], [504]]
    both = client.completions.create(**ask | {"prompt": ids, "n": 2, "max_tokens": 1})
    assert [c.index for c in both.choices] == [0, 1, 2, 3]
    assert [len(c.logprobs.tokens) for c in both.choices] == [4, 4, 2, 2]


@pytest.mark.parametrize("policy", ["off", "tree:16"])
def test_21_each_token_has_its_logprob(client, policy) -> None:
    ask = CHAT | {"logprobs": True, "top_logprobs": 3}
    extra = {"speculation": {"policy": policy}}
    whole = client.chat.completions.create(**ask, extra_body=extra)
    told = list(client.chat.completions.create(**ask, stream=True, extra_body=extra))
    entries = [e for c in told if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    others = whole.choices[0].logprobs.content
    assert [entry.token for entry in entries] == [entry.token for entry in others]
    # a prompt that is cached by now was read in other company
    logprobs = [entry.logprob for entry in others]
    assert [entry.logprob for entry in entries] == pytest.approx(logprobs, abs=1e-3)
    assert len(entries) == whole.usage.completion_tokens
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    spelt = b"".join(bytes(entry.bytes) for entry in entries).decode()
    assert spelt.removesuffix("<|im_end|>") == whole.choices[0].message.content


def test_21_log_probabilities_are_legal_json(http) -> None:
    body = TEXT | {"logprobs": 2, "logit_bias": {"1": -100}}
    answer = http.post("/v1/completions", json=body).text
    json.loads(answer, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_22_unknown_fields_are_ignored_and_known_ones_are_not(client) -> None:
    harmless = {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "user": "me"}
    assert client.chat.completions.create(**CHAT, extra_body=harmless | {"whatever": 1})
    nulls = dict.fromkeys(("stop", "seed", "logit_bias", "top_p", "n", "tools", "stream"))
    assert client.chat.completions.create(**CHAT, extra_body=nulls)
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(**TEXT, suffix="the end")
    assert refused.value.param == "suffix"
    named = {k: v for k, v in CHAT.items() if k != "max_tokens"}
    short = client.chat.completions.create(**named, max_completion_tokens=3)
    assert short.usage.completion_tokens == 3


def test_23_contents_and_roles_have_many_forms(client) -> None:
    parts = [{"type": "text", "text": "Name three "}, {"type": "text", "text": "colours."}]
    for messages in (
        [{"role": "user", "content": parts}],
        [{"role": "developer", "content": "Be brief."}, *QUESTION],
        [{"role": "system", "content": "Be brief."}, *QUESTION],
        [*QUESTION, {"role": "assistant", "content": "Red."}, {"role": "user", "content": "And?"}],
    ):
        answer = client.chat.completions.create(**CHAT | {"messages": messages})
        assert answer.choices[0].message.content
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    messages = [{"role": "user", "content": picture}]
    with pytest.raises(openai.BadRequestError) as image:
        client.chat.completions.create(**CHAT | {"messages": messages})
    assert image.value.param.startswith("messages")


def test_24_models_are_listed_at_once_wherever_they_are_asked_for(client, server, http) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "castserve")
    for path in ("/v1/models/", "/v1//models", "//v1/models"):
        assert http.get(server.url + path).json()["data"][0]["id"] == MODEL
    begin = time.monotonic()
    http.get("/v1/models")
    assert time.monotonic() - begin < 1


def test_25_leaving_frees_everything(http, server) -> None:
    busy = TEXT | {"n": 4, "max_tokens": 900, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=busy | {"stream": True}) as answer:
        next(answer.iter_lines())
    begin = time.monotonic()
    http.post("/v1/completions", json=TEXT | {"max_tokens": 2})
    assert time.monotonic() - begin < 8


def test_25_text_beyond_ascii_is_not_escaped(http) -> None:
    body = {"model": MODEL, "prompt": "¿Qué? ¿Qué? ¿Qué? ¿Qué? ¿Qué?", "temperature": 0}
    raw = http.post("/v1/completions", json=body).content
    assert "Qué".encode() in raw
    assert b"\\u00" not in raw


def test_26_the_same_counts_and_fingerprint_streamed_or_whole(client) -> None:
    told = list(
        client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    )
    whole = client.chat.completions.create(**CHAT)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(told[-1].usage, name) == getattr(whole.usage, name)
    assert whole.system_fingerprint
    assert {chunk.system_fingerprint for chunk in told} == {whole.system_fingerprint}


def test_27_requests_side_by_side_are_answered_as_if_alone(client) -> None:
    alone = client.completions.create(**TEXT).choices[0].text
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(client.completions.create(**TEXT).choices[0].text)
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 6
