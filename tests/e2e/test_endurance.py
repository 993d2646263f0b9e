"""An hour in small: many clients at once, some of them rude, and in the end a SIGTERM under load.

`ENDURANCE_SECONDS` says for how long (60), `ENDURANCE_MODEL` with which model
(a tiny random one).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
import psutil
import pytest
import tiny_models
from e2e.serving import Server, serving

from cast_server.api.keys import new_key

SECONDS = float(os.environ.get("ENDURANCE_SECONDS", "60"))
MODEL = os.environ.get("ENDURANCE_MODEL", "")
CLIENTS = 64
CONTEXT = 2048  # tokens, and all that the cache holds
DELIBERATE = {"engine_overloaded": 503, "rate_limit_exceeded": 429, "request_timeout": 408}
STOPPING = {"server_stopping": 503, "server_stopped": 500}
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
# In a process of its own, so that it does not wait for the clients of this one.
PROBE = """
import http.client, json, sys, threading, time
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
host, seconds = sys.argv[1], []
connection = http.client.HTTPConnection(host, timeout=30)
while not over.wait(0.02):
    begin = time.monotonic()
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    seconds.append(time.monotonic() - begin)
print(json.dumps(seconds))
"""


@dataclass
class Tally:
    """What came of all requests; wrong: what should not have."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    stopping_at: float | None = None

    def count(self, outcome: str, is_right: bool = True) -> None:
        self.outcomes[outcome] += 1
        if not is_right:
            self.wrong.append(outcome)


# Kernels are compiled for each new number of rows and kept, a thousand by default, which hides for
# minutes whether anything else grows.
SMALL_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}


@pytest.fixture
def flags(tmp_path, monkeypatch) -> tuple[list[str], list[str]]:
    """Flags of the server, and the keys that it takes."""
    for name, value in (SMALL_CACHES | {"MALLOC_ARENA_MAX": "2"}).items():
        monkeypatch.setenv(name, value)
    keys = [new_key(name) for name in ("ann", "bob")]
    (tmp_path / "keys").write_text("\n".join(entry for _, entry in keys))
    model = MODEL
    if not model:
        model = str(tmp_path / "tiny")
        tokenizer = tiny_models.byte_level_tokenizer()
        tiny_models.llama(max_position_embeddings=CONTEXT).save_pretrained(model)
        tokenizer.save_pretrained(model)
        (tmp_path / "tiny" / "chat_template.jinja").write_text(TEMPLATE)
    flags = ["--model", model, "--served-model-name", "m", "--max-model-len", str(CONTEXT)]
    flags += ["--kv-cache-tokens", str(CONTEXT), "--max-num-seqs", "16", "--max-waiting", "44"]
    flags += ["--api-keys-file", str(tmp_path / "keys"), "--max-requests-per-key", "31"]
    flags += ["--evaluations-dir", "", "--drain-timeout", "5"]
    return flags, [key for key, _ in keys]


@pytest.mark.slow
def test_many_clients_for_long(tmp_path, flags) -> None:
    options, keys = flags
    with serving(tmp_path / "log.txt", *options) as server:
        probe = subprocess.Popen(
            [sys.executable, "-c", PROBE, server.url.removeprefix("http://")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        tally, memory = Tally(), []
        asyncio.run(_load(server, keys, tally, memory, probe))
        begin = time.monotonic()
        assert server.process.wait(30) == 0
        print(f"stopped {time.monotonic() - begin:.1f} s after the last client")
        log = server.log.read_text()
    assert log.endswith("Stopped.\n")
    assert "Traceback" not in log
    assert not any(key in log for key in keys)
    print(dict(tally.outcomes))
    assert tally.wrong == []
    assert tally.outcomes["whole"] > CLIENTS
    health = sorted(json.loads(probe.communicate()[0]))
    p99 = health[int(len(health) * 0.99)]
    print(f"/health: {len(health)} times, p50 {statistics.median(health):.4f}, p99 {p99:.4f} s")
    _check_memory(memory)
    assert p99 < 0.1


async def _load(
    server: Server, keys: list[str], tally: Tally, memory: list[int], probe: Any
) -> None:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
        end = time.monotonic() + SECONDS
        tasks = [
            asyncio.create_task(_be_a_client(client, number, keys, tally, end))
            for number in range(CLIENTS)
        ]
        while time.monotonic() < end:
            await asyncio.sleep(1)
            memory.append(psutil.Process(server.process.pid).memory_info().rss)
        await asyncio.gather(*tasks)
        probe.stdin.close()
        probe.stdin = None
        await _fill_the_cache(client, keys[0])
        await _stop_under_load(server, client, keys, tally)


async def _fill_the_cache(client: httpx2.AsyncClient, key: str) -> None:
    """A request that needs every block there is ends only if none has been lost."""
    headers = {"Authorization": f"Bearer {key}"}
    ask = {"prompt": [7] * (CONTEXT - 200), "max_tokens": 200, "ignore_eos": True}
    answer = await client.post("/v1/completions", json=ask, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["total_tokens"] == CONTEXT


async def _stop_under_load(
    server: Server, client: httpx2.AsyncClient, keys: list[str], tally: Tally
) -> None:
    end = time.monotonic() + 60
    tasks = [
        asyncio.create_task(_be_a_client(client, number, keys, tally, end, tokens=600))
        for number in range(CLIENTS)
    ]
    await asyncio.sleep(2)
    tally.stopping_at = time.monotonic()
    server.process.terminate()
    await asyncio.wait_for(asyncio.gather(*tasks), 30)


async def _be_a_client(
    client: httpx2.AsyncClient,
    number: int,
    keys: list[str],
    tally: Tally,
    end: float,
    tokens: int = 60,
) -> None:
    """Asks for this and that, and sometimes leaves, until `end` or until the server has gone."""
    dice = random.Random(f"{number} {tokens}")
    while time.monotonic() < end:
        begun = time.monotonic()
        try:
            ask = _ask(client, dice, keys[number % len(keys)], tally, tokens)
            if dice.random() < 0.25:
                await asyncio.wait_for(ask, dice.expovariate(3))
            else:
                await ask
        except TimeoutError:
            tally.count("left")
        except httpx2.TransportError as error:
            # what was sent after the signal need not have been accepted
            is_right = tally.stopping_at is not None and begun >= tally.stopping_at - 0.01
            tally.count(f"{type(error).__name__}: {error}", is_right)
        if tally.stopping_at is not None and begun > tally.stopping_at:
            return


async def _ask(
    client: httpx2.AsyncClient, dice: random.Random, key: str, tally: Tally, tokens: int
) -> None:
    words = ["the", "cat", "and", "the", "dog", "went", "into", "the", "garden"]
    text = " ".join(dice.choices(words, k=dice.randrange(1, 60)))
    body: dict[str, Any] = {"max_tokens": dice.randrange(1, tokens), "stream": dice.random() < 0.5}
    body |= {"temperature": dice.choice([0, 1]), "n": dice.choice([1, 1, 1, 2])}
    body["speculation"] = {"policy": dice.choice(["off", "chain:4", "cast"])}
    is_chat = dice.random() < 0.5
    body |= {"messages": [{"role": "user", "content": text}]} if is_chat else {"prompt": text}
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    headers = {"Authorization": f"Bearer {key}"}
    if dice.random() < 0.05:
        headers["x-request-timeout"] = "0.2"
    async with client.stream("POST", path, json=body, headers=headers) as answer:
        content = (await answer.aread()).decode()
    if answer.status_code != 200 or not body["stream"]:
        _judge_whole(answer.status_code, json.loads(content), body, tally)
    else:
        _judge_stream(content, body, tally)
    if answer.status_code in (429, 503):
        await asyncio.sleep(dice.uniform(0.05, 0.3))


def _judge_whole(status: int, content: dict[str, Any], body: dict[str, Any], tally: Tally) -> None:
    if status == 200:
        tally.count("whole", len(content["choices"]) == body["n"])
    else:
        tally.count(code := content["error"]["code"], _expected(tally).get(code) == status)


def _judge_stream(content: str, body: dict[str, Any], tally: Tally) -> None:
    events = [line.removeprefix("data: ") for line in content.split("\n\n") if line]
    events = [event for event in events if not event.startswith(":")]
    if events[-1] != "[DONE]":
        tally.count("a stream without [DONE]", is_right=False)
        return
    chunks = [json.loads(event) for event in events[:-1]]
    if "error" in chunks[-1]:
        tally.count(code := chunks[-1]["error"]["code"], code in _expected(tally))
        return
    reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"]]
    tally.count("streamed", sum(reason is not None for reason in reasons) == body["n"])


def _expected(tally: Tally) -> dict[str, int]:
    return DELIBERATE if tally.stopping_at is None else DELIBERATE | STOPPING


def _check_memory(memory: list[int]) -> None:
    print("resident, in MB:", [round(one / 2**20) for one in memory])
    quarter = len(memory) // 4
    warm = statistics.median(memory[quarter : 2 * quarter])
    last = statistics.median(memory[-quarter:])
    assert last < warm * 1.02 + 4 * 2**20
