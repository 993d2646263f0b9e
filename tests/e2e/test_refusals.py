"""Bad requests are told why, while a good one goes on as if they had never come."""

from __future__ import annotations

import json
import threading
import time

import httpx2
import openai
import pytest
from e2e.serving import MODEL

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ERROR_FIELDS = {"message", "type", "param", "code"}


def body(**fields: object) -> str:
    return json.dumps({"model": MODEL, "messages": QUESTION} | fields)


BAD = {
    "no messages": (body(messages=[]), 400, "messages"),
    "longer than the context": (
        body(messages=[{"role": "user", "content": "word " * 5000}]),
        400,
        "messages",
    ),
    "negative temperature": (body(temperature=-1), 400, "temperature"),
    "NaN temperature": (body(temperature=float("nan")), 400, "temperature"),
    "NaN logit bias": (body(logit_bias={"5": float("nan")}), 400, "logit_bias"),
    "unknown token": (body(logit_bias={"49152": 1}), 400, "logit_bias"),
    "unknown model": (body(model="gpt-9"), 404, "model"),
    "unknown policy": (body(speculation={"policy": "magic"}), 400, "speculation"),
    "large body": (body(user="x" * 10_000_000), 413, None),
    "invalid JSON": ('{"messages": [', 400, None),
    "no JSON object": ("[]", 400, None),
    "not UTF-8": (b'{"model": "\xff"}', 400, None),
}


def test_bad_requests_are_told_why_and_disturb_nobody(server, client) -> None:
    ask = {"model": MODEL, "prompt": "The sea is", "max_tokens": 128, "temperature": 0}
    # without drafts the stream lasts long enough to be disturbed
    ask["extra_body"] = {"ignore_eos": True, "speculation": {"policy": "off"}}
    undisturbed = client.completions.create(**ask)
    streamed: list[str] = []
    ended_at: list[float] = []
    has_begun = threading.Event()

    def stream() -> None:
        for chunk in client.completions.create(**ask, stream=True):
            streamed.append(chunk.choices[0].text)
            has_begun.set()
        ended_at.append(time.monotonic())

    thread = threading.Thread(target=stream)
    thread.start()
    assert has_begun.wait(30)
    for name, (content, status, param) in BAD.items():
        check_refusal(server.url, name, content, status, param)
    refused_at = time.monotonic()
    thread.join()
    assert refused_at < ended_at[0]
    assert "".join(streamed) == undisturbed.choices[0].text


def check_refusal(url: str, name: str, content: str | bytes, status: int, param: str | None):
    headers = {"content-type": "application/json"}
    answer = httpx2.post(f"{url}/v1/chat/completions", content=content, headers=headers)
    assert answer.status_code == status, (name, answer.text)
    error = answer.json()["error"]
    assert set(error) == ERROR_FIELDS, name
    assert error["type"] == "invalid_request_error", name
    assert error["param"] == param, name
    assert error["message"], name


def test_the_client_raises_what_it_raises_for_openai(client) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature must be between"):
        client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=-1)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model=MODEL, prompt="Hello", max_tokens=5000)
    assert too_long.value.code == "context_length_exceeded"
