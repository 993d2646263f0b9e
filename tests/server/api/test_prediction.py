"""OpenAI's Predicted Outputs over HTTP, and what answers tell of speculation."""

from __future__ import annotations

import json

import pytest

from cast_server.engine.request import SpeculationStats

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
BASE = {CHAT: {"messages": [{"role": "user", "content": "hi"}]}, TEXT: {"prompt": "hi"}}
WORLD = {"type": "content", "content": "world"}
COUNTED = SpeculationStats(
    4, 9, 3, (2, 1, 1), num_spec_tokens=6, drafted_by=(2, 0, 0, 7), accepted_by=(1, 0, 0, 2)
)


def post(http, path, **fields):
    return http.post(path, json=BASE[path] | fields)


def details(answer) -> dict:
    return answer.json()["usage"]["completion_tokens_details"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    "content",
    ["world", [{"type": "text", "text": "wor"}, {"type": "text", "text": "ld"}]],
    ids=["string", "parts"],
)
def test_it_reaches_the_engine_as_tokens(http, engine, path, content) -> None:
    answer = post(http, path, n=2, prediction={"type": "content", "content": content})
    assert answer.status_code == 200, answer.text
    assert [one.prediction for one in engine.requests] == [engine.ids("world")] * 2


def test_the_official_client_sends_it(client, engine) -> None:
    client.chat.completions.create(
        model="org/tiny", messages=BASE[CHAT]["messages"], prediction=WORLD
    )
    assert engine.requests[0].prediction == engine.ids("world")


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("fields", [{}, {"prediction": None}])
def test_without_it_none_is_expected(http, engine, path, fields) -> None:
    engine.script = engine.saying("x", speculation=COUNTED)
    answer = post(http, path, **fields)
    assert engine.requests[0].prediction == ()
    assert details(answer) == {"reasoning_tokens": 0, "audio_tokens": 0}


def test_no_more_of_it_is_kept_than_an_answer_can_have(http, engine) -> None:
    post(http, CHAT, prediction={"type": "content", "content": "x" * 5000})
    assert engine.requests[0].prediction == engine.ids("x" * engine.max_model_len)


def test_an_empty_one_is_none(http, engine) -> None:
    answer = post(http, CHAT, prediction={"type": "content", "content": ""})
    assert answer.status_code == 200
    assert engine.requests[0].prediction == ()


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("world", "prediction"),
        (["world"], "prediction"),
        (5, "prediction"),
        ({"content": "world"}, "prediction.type"),
        ({"type": "static", "content": "world"}, "prediction.type"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "content", "content": None}, "prediction.content"),
        ({"type": "content", "content": 7}, "prediction.content"),
        ({"type": "content", "content": ["world"]}, "prediction.content"),
        ({"type": "content", "content": [{"type": "image_url"}]}, "prediction.content"),
        ({"type": "content", "content": [{"type": "text"}]}, "prediction.content"),
        ({"type": "content", "content": "half \ud800"}, "prediction.content"),
    ],
)
def test_another_form_is_refused_by_name(http, engine, path, value, param) -> None:
    body = json.dumps(BASE[path] | {"prediction": value})
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert engine.requests == []


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_openai_refuses_beside_it_is_possible_here(http, engine, path) -> None:
    logprobs = {"logprobs": True, "top_logprobs": 2} if path == CHAT else {"logprobs": 2}
    rest = {"n": 2, "presence_penalty": 0.5, "frequency_penalty": 0.5, "max_tokens": 9}
    answer = post(http, path, prediction=WORLD, **rest, **logprobs)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"]) == 2


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_usage_tells_what_came_of_it(http, engine, path) -> None:
    engine.script = engine.saying("Hello", " world", speculation=COUNTED)
    expected = {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 2 * 2,
        "rejected_prediction_tokens": 2 * 5,
    }
    ask = {"n": 2, "prediction": WORLD}
    whole = post(http, path, **ask)
    assert details(whole) == expected
    options = {"stream": True, "stream_options": {"include_usage": True}}
    last = post(http, path, **ask, **options).text.split("\n\n")[-3].removeprefix("data: ")
    assert json.loads(last)["usage"] == whole.json()["usage"]
    assert json.loads(last)["metrics"] == whole.json()["metrics"]


def test_it_is_told_of_even_if_nothing_was_made_of_it(http, engine) -> None:
    told = details(post(http, CHAT, prediction=WORLD, speculation={"policy": "off"}))
    assert (told["accepted_prediction_tokens"], told["rejected_prediction_tokens"]) == (0, 0)


def test_metrics_have_the_shape_of_vllms_and_name_the_sources(http, engine) -> None:
    engine.script = engine.saying("x", speculation=COUNTED)
    metrics = post(http, CHAT).json()["metrics"]["speculative_decoding"]
    assert metrics["num_spec_tokens"] == 6
    assert metrics["acceptance_histogram"] == [2, 1, 1, 0, 0, 0, 0]
    assert metrics["sources"] == {
        "drafter": {"num_draft_tokens": 2, "num_accepted_draft_tokens": 1},
        "prediction": {"num_draft_tokens": 7, "num_accepted_draft_tokens": 2},
    }
    assert "per_step_accepted" not in metrics
    assert "per_step_drafted" not in metrics


def test_steps_are_listed_for_a_single_answer_that_asks(http, engine) -> None:
    stats = SpeculationStats(2, 7, 4, per_step=((3, 1), (4, 3)))
    engine.script = engine.saying("x", speculation=stats)
    wish = {"speculation": {"per_step": True}}
    one = post(http, CHAT, **wish).json()["metrics"]["speculative_decoding"]
    assert engine.requests[0].speculation.per_step
    assert (one["per_step_drafted"], one["per_step_accepted"]) == ([3, 4], [1, 3])
    two = post(http, CHAT, n=2, **wish).json()["metrics"]["speculative_decoding"]
    assert "per_step_drafted" not in two


@pytest.mark.parametrize("value", ["yes", 1])
def test_listing_steps_is_a_matter_of_yes_or_no(http, value) -> None:
    answer = post(http, CHAT, speculation={"per_step": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "speculation.per_step"
