"""/v1/embeddings through the official client: means of the model's last hidden states."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Generator

import httpx2
import numpy as np
import openai
import pytest
import reading_server
import tiny_models
import torch

from cast_server.engine.async_engine import AsyncEngine
from cast_server.errors import EngineOverloadedError

PATH = "/v1/embeddings"
TEXTS = ["the cat and the dog", "猫は庭にいる。", "a stop, another stop; " * 9]


@pytest.fixture(scope="module")
def url():
    model = tiny_models.model_of("llama")
    with tiny_models.one_thread(), reading_server.serving(model) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(url):
    with httpx2.Client(base_url=url, timeout=30) as http:
        yield http


def ids_of(text) -> list[int]:
    return tiny_models.byte_level_tokenizer()(text)["input_ids"]


def plain(token_ids):
    """By transformers: hidden_states ends with the final norm's output."""
    with torch.inference_mode():
        out = tiny_models._model("llama")(torch.tensor([token_ids]), output_hidden_states=True)
    mean = out.hidden_states[-1][0].mean(0)
    return (mean / mean.norm()).numpy()


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_vectors_are_means_of_hidden_states(client, form) -> None:
    answer = client.embeddings.create(model="org/tiny", input=TEXTS, **form)
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert (answer.object, answer.model) == ("list", "org/tiny")
    for text, one in zip(TEXTS, answer.data, strict=True):
        vector = one.embedding
        if form.get("encoding_format") == "base64":  # the client leaves it as it asked for it
            vector = np.frombuffer(base64.b64decode(vector), "<f4")
        assert vector == pytest.approx(plain(ids_of(text)), abs=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    count = sum(len(ids_of(text)) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (count, count)


def test_inputs_in_every_form(client) -> None:
    def vectors(given):
        answer = client.embeddings.create(model="org/tiny", input=given)
        return [one.embedding for one in answer.data]

    [text] = vectors("the cat")
    assert vectors(ids_of("the cat")) == [text]
    assert vectors([ids_of("the cat"), ids_of("the cat")]) == [text, text]
    assert vectors(["the cat"]) == [text]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 5]}, "input"),
        ({"input": [[5], []]}, "input"),
        ({"input": [320]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 8}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_what_cannot_be_is_refused(http, body, param) -> None:
    answer = http.post(PATH, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert param in answer.json()["error"]["message"]


def test_too_many_at_once_are_told_to_wait() -> None:
    engine = AsyncEngine(tiny_models.tiny_core(tiny_models.model_of("llama")), "tiny", 2)
    engine.start()

    gate = threading.Event()

    def held() -> Generator[None, None, None]:
        gate.wait(20)
        return
        yield

    async def three():
        holding = asyncio.ensure_future(engine.work(lambda _: held()))
        texts = [asyncio.ensure_future(engine.embed([5] * 40)) for _ in range(3)]
        await asyncio.sleep(0.05)  # all three have asked
        gate.set()
        await holding
        return await asyncio.gather(*texts, return_exceptions=True)

    *found, refused = asyncio.run(three())
    engine.stop()
    assert found[0] == found[1]
    assert isinstance(refused, EngineOverloadedError)


def test_a_text_that_does_not_fit(http) -> None:
    assert http.post(PATH, json={"input": [5] * 256}).status_code == 200
    error = http.post(PATH, json={"input": [5] * 257}).json()["error"]
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")
