"""Clients leave, and the server is told to stop."""

from __future__ import annotations

import signal
import time

import httpx2
import openai
import pytest
import tiny_models
from e2e.conftest import MAX_NUM_SEQS
from e2e.serving import MODEL, serving

# As many answers as the server decodes at a time, of minutes each.
ENDLESS = {
    "model": MODEL,
    "prompt": "The sea is",
    "n": MAX_NUM_SEQS,
    "max_tokens": 1000,
    "ignore_eos": True,
}


def check_server_is_free(client: openai.OpenAI) -> None:
    begin = time.monotonic()
    client.completions.create(model=MODEL, prompt="Hello", max_tokens=4, temperature=0)
    assert time.monotonic() - begin < 8


def test_leaving_a_stream_frees_its_places(server, client) -> None:
    body = ENDLESS | {"stream": True}
    with httpx2.stream("POST", f"{server.url}/v1/completions", json=body) as response:
        assert next(response.iter_lines()).startswith("data: ")
    check_server_is_free(client)


def test_giving_up_on_a_whole_answer_frees_its_places(server, client) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{server.url}/v1/completions", json=ENDLESS, timeout=1)
    check_server_is_free(client)


def test_sigterm_lets_a_running_stream_end(tmp_path) -> None:
    # A tiny model, which says nonsense for as long as its context lasts, starts fastest.
    tiny_models.llama().save_pretrained(tmp_path / "tiny")
    tiny_models.byte_level_tokenizer().save_pretrained(tmp_path / "tiny")
    flags = ("--model", str(tmp_path / "tiny"), "--kv-cache-tokens", "512")
    with serving(tmp_path / "log.txt", *flags) as server:
        ask = {"model": "tiny", "prompt": "the cat", "max_tokens": 450, "temperature": 0}
        ask["extra_body"] = {"ignore_eos": True, "speculation": {"policy": "off"}}
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
            stream = client.completions.create(**ask, stream=True)
            first = next(stream)
            server.process.send_signal(signal.SIGTERM)
            last = [first, *stream][-1]
        assert last.choices[0].finish_reason == "length"
        assert last.metrics["speculative_decoding"]["num_spec_steps"] == 449
        assert server.process.wait(30) == 0
        assert server.log.read_text().endswith("Stopped.\n")
