"""Bodies made to hurt: each is a clear 400 or a plain answer, and nobody else waits for it."""

from __future__ import annotations

import gc
import threading
import time

import httpx2
import pytest
from tiny_server import body, tiny_server

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server():
    with tiny_server() as server:
        yield server


class Watch:
    """Asks for /health all the time. `slowest`: the longest that it took, in seconds."""

    def __init__(self, url: str) -> None:
        self.slowest, self._url = 0.0, url
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Watch:
        # What thousands of tests before have left is not for the collector to look through now.
        gc.collect()
        gc.freeze()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        gc.unfreeze()

    def _ask(self) -> None:
        with httpx2.Client(timeout=30) as client:
            while not self._is_over.wait(0.005):
                begin = time.monotonic()
                assert client.get(f"{self._url}/health").status_code == 200
                self.slowest = max(self.slowest, time.monotonic() - begin)


MEGABYTE = "x" * 2**20
REFUSED = {
    "a megabyte of one stop string": ({"stop": [MEGABYTE]}, "stop"),
    "a megabyte of stop strings": ({"stop": ["ab"] * 200_000}, "stop"),
    "65 stop strings": ({"stop": ["ab"] * 65}, "stop"),
    "a stop string of 1001 characters": ({"stop": "x" * 1001}, "stop"),
    "biases of 100,000 tokens": ({"logit_bias": {str(i): 1 for i in range(100_000)}}, "logit_bias"),
    "100,000 stop tokens": ({"stop_token_ids": [1] * 100_000}, "stop_token_ids"),
    "a billion answers": ({"n": 10**9}, "n"),
    "100,000 prompts": ({"prompt": ["a"] * 100_000}, "prompt"),
    "100,000 prompts of tokens": ({"prompt": [[1]] * 100_000}, "prompt"),
    "128 answers to each of 9 prompts": ({"prompt": ["a"] * 9, "n": 128}, "prompt"),
    "a million tokens": ({"prompt": [1] * 1_000_000}, "prompt"),
    "three megabytes of text": ({"prompt": "the cat and " * 250_000}, "prompt"),
    "three megabytes of one word": ({"prompt": "ab" * 1_500_000}, "prompt"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_too_much_is_a_400_with_the_field(server, case) -> None:
    fields, param = REFUSED[case]
    with Watch(server.url) as watch:
        time.sleep(0.05)
        answer = server.ask(**fields)
    print(f"{case}: /health within {watch.slowest:.3f} s")
    assert answer.status_code == 400, answer.text[:500]
    assert answer.json()["error"]["param"] == param
    assert len(answer.content) < 600
    assert watch.slowest < 0.5
    assert server.is_idle


def test_as_much_as_is_allowed_is_answered(server) -> None:
    fields = {"stop": ["\0" * 1000] * 64, "logit_bias": {str(i): 1 for i in range(300)}}
    fields |= {"stop_token_ids": list(range(300)), "n": 128, "max_tokens": 1}
    assert len(server.ask(**fields).json()["choices"]) == 128
    assert len(server.ask(prompt=["a"] * 1024, max_tokens=1).json()["choices"]) == 1024


def test_a_chat_of_thirty_thousand_tokens_is_told_its_length(server) -> None:
    messages = [{"role": "user", "content": "x y " * 7_500}] * 2
    with Watch(server.url) as watch:
        time.sleep(0.05)
        answer = httpx2.post(server.url + CHAT, json={"messages": messages}, timeout=30)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "maximum context length is 256 tokens" in error["message"]
    assert watch.slowest < 0.5


@pytest.mark.parametrize("content", [b"[" * 4_000_000, b'{"a":' * 800_000, b"[]," * 1_000_000])
def test_deep_nesting_is_no_json(server, content) -> None:
    with Watch(server.url) as watch:
        answer = httpx2.post(
            f"{server.url}/v1/completions",
            content=content,
            headers={"content-type": "application/json"},
            timeout=30,
        )
    assert answer.status_code == 400
    assert len(answer.content) < 600
    assert watch.slowest < 0.5


def test_deep_messages_are_refused(server) -> None:
    deep: object = "x"
    for _ in range(900):
        deep = [deep]
    answer = httpx2.post(
        server.url + CHAT, json={"messages": [{"role": "user", "content": "a", "extra": deep}]}
    )
    assert answer.status_code in (200, 400)
    assert server.ask(**body(max_tokens=1)).status_code == 200


def test_a_full_queue_is_a_503_to_come_back_to(server) -> None:
    server.step_seconds = 0.02
    with server.post(body(n=68, max_tokens=100)):
        server.until(lambda: len(server.requests) >= 68)
        answer = server.ask(max_tokens=1)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "engine_overloaded"
        assert server.get("/health").status_code == 200
    server.until(lambda: server.is_idle)
    server.step_seconds = 0
    assert server.ask(max_tokens=1).status_code == 200
