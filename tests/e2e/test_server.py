"""The real `cast-serve`, the real model and the official client, over a real socket."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2
import openai
import pytest

MODEL = "smollm2-135m-instruct"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cast_server", "--port", str(port), "--dtype", "float32"]
    command += ["--kv-cache-tokens", "16384", "--threads", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    for _ in range(600):
        assert process.poll() is None, "the server ended while starting"
        try:
            if httpx2.get(f"{base}/health").status_code == 200:
                break
        except httpx2.TransportError:
            time.sleep(0.2)
    yield base
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="-", max_retries=0) as client:
        yield client


def test_a_chat_gets_a_real_answer(client) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_streamed_text_is_the_same(client) -> None:
    ask = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}
    whole = client.completions.create(**ask)
    chunks = list(
        client.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_speculation_is_chosen_by_the_request_and_reported(client) -> None:
    ask = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Count: 1, 2, 3, 1, 2, 3, 1, 2, 3. Go on."}],
        "temperature": 0.7,
        "seed": 5,
        "max_tokens": 48,
        "logprobs": True,
    }
    answers = {
        policy: client.chat.completions.create(
            **ask, extra_body={"speculation": {"policy": policy}}
        )
        for policy in ("off", "chain:3", "tree:7")
    }
    texts = {answer.choices[0].message.content for answer in answers.values()}
    assert len(texts) == 1
    off, tree = (answers[p].metrics["speculative_decoding"] for p in ("off", "tree:7"))
    assert off["num_draft_tokens"] == 0
    assert off["mean_acceptance_length"] == 1.0
    assert tree["num_accepted_draft_tokens"] > 0
    assert tree["num_spec_steps"] < off["num_spec_steps"]
    assert len(answers["tree:7"].choices[0].logprobs.content) == 48 or (
        answers["tree:7"].choices[0].finish_reason == "stop"
    )
    streamed = client.chat.completions.create(
        **ask, stream=True, extra_body={"speculation": {"policy": "tree:7"}}
    )
    assert list(streamed)[-1].metrics["speculative_decoding"]["num_spec_steps"] > 0


def test_copies_and_stops(client) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="One, two,", n=3, seed=1, max_tokens=20, temperature=1.0, stop=["."]
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all("." not in choice.text for choice in answer.choices)
    assert len({choice.text for choice in answer.choices}) > 1


BAD = {
    "no messages": ({"messages": []}, 400),
    "too long": ({"messages": [{"role": "user", "content": "word " * 9000}]}, 400),
    "negative temperature": ({"messages": QUESTION, "temperature": -1}, 400),
    "unknown model": ({"messages": QUESTION, "model": "gpt-9"}, 404),
    "unknown policy": ({"messages": QUESTION, "speculation": {"policy": "magic"}}, 400),
    "large body": ({"messages": [{"role": "user", "content": "x" * 10_000_000}]}, 413),
}


def test_bad_requests_are_told_why_and_disturb_nobody(server, client) -> None:
    ask = {"model": MODEL, "prompt": "The sea is", "max_tokens": 120, "temperature": 0}
    undisturbed = client.completions.create(**ask, extra_body={"ignore_eos": True})
    streamed: list[str] = []

    def stream() -> None:
        chunks = client.completions.create(**ask, stream=True, extra_body={"ignore_eos": True})
        streamed.extend(chunk.choices[0].text for chunk in chunks)

    thread = threading.Thread(target=stream)
    thread.start()
    for name, (body, status) in BAD.items():
        check_refusal(server, name, json.dumps({"model": MODEL} | body), status)
    check_refusal(server, "invalid JSON", '{"messages": [', 400)
    nan = json.dumps({"model": MODEL, "messages": QUESTION, "logit_bias": {"5": float("nan")}})
    check_refusal(server, "NaN", nan, 400)
    thread.join()
    assert "".join(streamed) == undisturbed.choices[0].text


def check_refusal(server: str, name: str, body: str, status: int) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx2.post(f"{server}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status, name
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, name
    assert error["message"], name


def test_leaving_frees_the_engine(server, client) -> None:
    ask = {"model": MODEL, "prompt": "The sea is", "max_tokens": 4000, "temperature": 0}
    for _ in range(4):
        stream = client.completions.create(**ask, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    begin = time.monotonic()
    client.completions.create(model=MODEL, prompt="Hello", max_tokens=4, temperature=0)
    assert time.monotonic() - begin < 5
    assert httpx2.get(f"{server}/health").status_code == 200
