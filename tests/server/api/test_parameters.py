"""How fields of the body reach the engine, and which are refused."""

from __future__ import annotations

import json

import pytest

from cast_server.engine.request import SamplingParams, SpeculationParams

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
BASE = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    TEXT: {"prompt": "hi"},
}


def post(http, path, **fields):
    body = json.dumps(BASE[path] | fields)  # the client's own encoder refuses what we must refuse
    return http.post(path, content=body, headers={"content-type": "application/json"})


def refusal(http, path, **fields) -> dict:
    answer = post(http, path, **fields)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_sampling_fields_reach_the_engine(http, engine, path) -> None:
    fields = {
        "max_tokens": 9,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.1,
        "stop_token_ids": [3, 4],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "skip_special_tokens": False,
    }
    post(http, path, **fields, seed=11, stop=["a", "b"], logit_bias={"5": 2, "6": -100})
    expected = fields | {"stop": ("a", "b"), "stop_token_ids": (3, 4)}
    expected |= {"logit_bias": {5: 2.0, 6: -100.0}}
    assert engine.requests[0].params == SamplingParams(**expected)
    assert engine.requests[0].seed == 11


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_null_is_the_default(http, engine, path) -> None:
    names = (
        "model n stream stream_options user speculation max_tokens temperature top_p top_k seed "
        "stop logit_bias logprobs presence_penalty stop_token_ids tools suffix echo"
    )
    nothing = dict.fromkeys(names.split())
    assert post(http, path, **nothing).status_code == 200
    post(http, path)
    assert engine.requests[0].params == engine.requests[1].params
    assert engine.requests[0].params.temperature == 1.0


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_unknown_fields_are_ignored(http, path) -> None:
    extra = {"store": True, "metadata": {"a": "b"}, "reasoning_effort": "low", "made_up": [1]}
    assert post(http, path, **extra, parallel_tool_calls=True).status_code == 200


def test_stop_may_be_one_string(http, engine) -> None:
    post(http, TEXT, stop="END")
    assert engine.requests[0].params.stop == ("END",)


def test_vllms_clients_switch_top_k_off_by_minus_one(http, engine) -> None:
    post(http, TEXT, top_k=-1)
    assert engine.requests[0].params.top_k == 0


def test_speculation_reaches_the_engine(http, engine) -> None:
    post(http, CHAT, speculation={"policy": "chain:4", "max_draft_tokens": 3})
    post(http, CHAT, speculation={"policy": None})
    assert engine.requests[0].speculation == SpeculationParams("chain:4", 3)
    assert engine.requests[1].speculation == SpeculationParams(None, None)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 2),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("min_tokens", 99),
        ("n", 0),
        ("n", 129),
        ("n", "2"),
        ("seed", 2**63),
        ("seed", 1.5),
        ("stop", [""]),
        ("stop", [1]),
        ("stop", 5),
        ("stream", "yes"),
        ("stop_token_ids", "5"),
        ("stop_token_ids", [257]),
        ("stop_token_ids", [-1]),
        ("logit_bias", {"five": 1}),
        ("logit_bias", {"-5": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"5": "1"}),
        ("logit_bias", {"257": 1}),
        ("logit_bias", [5]),
        ("model", 5),
    ],
)
def test_wrong_value_is_refused_by_name(http, engine, path, field, value) -> None:
    error = refusal(http, path, **{"max_tokens": 20, field: value})
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"
    assert field in error["message"]
    assert engine.requests == []


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (TEXT, "suffix", "end"),
        (TEXT, "echo", True),
        (TEXT, "best_of", 2),
        (TEXT, "prompt_logprobs", 1),
        (TEXT, "tools", [{"type": "function", "function": {"name": "f"}}]),
        (TEXT, "tool_choice", "auto"),
        (TEXT, "chat_template_kwargs", {"enable_thinking": False}),
        (CHAT, "functions", [{"name": "f"}]),
        (CHAT, "function_call", "auto"),
        (CHAT, "prediction", {"type": "content", "content": "x"}),
        (CHAT, "audio", {"voice": "x"}),
        (CHAT, "modalities", ["audio"]),
    ],
)
def test_field_that_would_change_the_answer_is_refused(http, path, field, value) -> None:
    error = refusal(http, path, **{field: value})
    assert error["param"] == field
    assert "not supported" in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "none"},
        {"tools": []},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"echo": False},
    ],
)
def test_field_that_asks_for_what_happens_anyway_is_accepted(http, fields) -> None:
    assert post(http, CHAT, **fields).status_code == 200


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "logit_bias"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_lacks_are_refused_by_name(http, field, value) -> None:
    value = f'{{"5": {value}}}' if field == "logit_bias" else value
    body = f'{{"prompt": "hi", "{field}": {value}}}'
    answer = http.post(TEXT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_unknown_field_of_speculation_is_refused(http) -> None:
    error = refusal(http, CHAT, speculation={"polcy": "off"})
    assert error["param"] == "speculation.polcy"


def test_negative_draft_length_is_refused(http) -> None:
    error = refusal(http, CHAT, speculation={"max_draft_tokens": -1})
    assert error["param"] == "speculation.max_draft_tokens"


def test_max_completion_tokens_is_refused_by_its_own_name(http) -> None:
    assert refusal(http, CHAT, max_completion_tokens=0)["param"] == "max_completion_tokens"


def test_each_endpoint_explains_the_other_ones_logprobs(http) -> None:
    error = refusal(http, TEXT, logprobs=True)
    assert (error["param"], "integer" in error["message"]) == ("logprobs", True)
    error = refusal(http, CHAT, logprobs=5)
    assert (error["param"], "true or false" in error["message"]) == ("logprobs", True)


def test_number_of_logprobs_is_bounded(http) -> None:
    assert refusal(http, TEXT, logprobs=21)["param"] == "logprobs"
    assert refusal(http, CHAT, logprobs=True, top_logprobs=21)["param"] == "top_logprobs"
    assert refusal(http, CHAT, top_logprobs=2)["param"] == "top_logprobs"


def test_stream_options_need_a_stream(http) -> None:
    assert refusal(http, CHAT, stream_options={"include_usage": True})["param"] == "stream_options"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hi", "messages"),
        (["hi"], "messages[0]"),
        ([{"role": "user", "content": "a"}, {"role": "owl", "content": "b"}], "messages[1].role"),
        ([{"content": "a"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0]"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content"),
        ([{"role": "user", "content": ["a"]}], "messages[0].content"),
    ],
)
def test_wrong_messages_are_refused_by_place(http, messages, param) -> None:
    assert refusal(http, CHAT, messages=messages)["param"] == param


def test_missing_messages_and_prompt_are_refused_by_name(http) -> None:
    for path, param in ((CHAT, "messages"), (TEXT, "prompt")):
        answer = http.post(path, json={})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


def test_what_the_template_refuses_is_the_clients_fault(http) -> None:
    messages = [{"role": "tool", "content": "42"}]
    error = refusal(http, CHAT, messages=messages)
    assert error["param"] == "messages"
    assert "no tools in this template" in error["message"]


def test_a_template_that_trips_over_messages_is_the_clients_fault(
    http, engine, monkeypatch
) -> None:
    monkeypatch.setattr(engine.tokenizer, "chat_template", "{{ messages[0].content + 5 }}")
    error = refusal(http, CHAT)
    assert error["param"] == "messages"
    assert "chat template" in error["message"]


def test_model_without_chat_template_refuses_chats(http, engine, monkeypatch) -> None:
    monkeypatch.setattr(engine.tokenizer, "chat_template", None)
    assert "chat template" in refusal(http, CHAT)["message"]


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        [],
        [[]],
        ["a", ""],
        [257],
        [[5], [-1]],
        [10**30],
        [1.5],
        ["a", 1],
        [True],
        [[1, "a"]],
        {"a": 1},
        5,
    ],
)
def test_wrong_prompts_are_refused(http, prompt) -> None:
    assert refusal(http, TEXT, prompt=prompt)["param"] == "prompt"


def test_too_many_answers_at_once_are_refused(http) -> None:
    assert refusal(http, TEXT, prompt=["x"] * 1025)["param"] == "prompt"
    assert refusal(http, TEXT, prompt=["x"] * 9, n=128)["param"] == "prompt"


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (TEXT, "prompt", "\ud800"),
        (CHAT, "messages", [{"role": "user", "content": "\ud800"}]),
    ],
)
def test_half_a_surrogate_pair_is_refused(http, path, field, value) -> None:
    assert refusal(http, path, **{field: value})["param"] == field


def test_half_a_surrogate_pair_can_be_quoted_in_an_error(http) -> None:
    answer = post(http, TEXT, model="\ud800")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "The model `?` does not exist."


@pytest.mark.parametrize(
    ("path", "param", "prompt_tokens"), [(CHAT, "messages", 20), (TEXT, "prompt", 2)]
)
def test_too_long_a_request_says_so_in_the_words_that_clients_look_for(
    http, path, param, prompt_tokens
) -> None:
    answer = post(http, path, max_tokens=99)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "This model's maximum context length is 100 tokens. However, your request needs "
        f"{prompt_tokens + 99} tokens ({prompt_tokens} in the prompt, 99 for the completion). "
        "(context_length_exceeded)",
        "type": "invalid_request_error",
        "param": param,
        "code": "context_length_exceeded",
    }


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_prompt_that_fills_the_context_is_refused(http, path) -> None:
    long = "x" * 100
    field = {"prompt": long} if path == TEXT else {"messages": [{"role": "user", "content": long}]}
    assert refusal(http, path, **field)["code"] == "context_length_exceeded"


def test_max_tokens_may_use_the_context_to_its_end(http, engine) -> None:
    assert post(http, TEXT, max_tokens=98).status_code == 200
    assert refusal(http, TEXT, max_tokens=99)["code"] == "context_length_exceeded"
