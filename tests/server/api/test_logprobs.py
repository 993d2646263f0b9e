"""Log-probabilities in both shapes, streamed and not."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from itertools import chain

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cast_server.api.token_text import TokenText
from cast_server.engine.request import RequestOutput, TokenLogprob

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def chat(http, **fields) -> dict:
    body = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True}
    return http.post(CHAT, json=body | fields).json()


def complete(http, **fields) -> dict:
    return http.post(TEXT, json={"prompt": "hi", "logprobs": 2} | fields).json()


def events(http, path, body) -> list[dict]:
    text = http.post(path, json=body | {"stream": True}).text
    return [json.loads(event[6:]) for event in text.split("\n\n") if event.startswith("data: {")]


def test_chat_reports_each_token_with_alternatives(http, engine) -> None:
    engine.script = engine.saying("x", "é")
    logprobs = chat(http, top_logprobs=2)["choices"][0]["logprobs"]
    assert engine.requests[0].params.logprobs == 2
    assert logprobs["refusal"] is None
    assert [entry["token"] for entry in logprobs["content"]] == ["x", "�", "�"]
    assert [entry["bytes"] for entry in logprobs["content"]] == [[120], [0xC3], [0xA9]]
    assert [entry["logprob"] for entry in logprobs["content"]] == [-0.5] * 3
    assert logprobs["content"][0]["top_logprobs"] == [
        {"token": "a", "logprob": -0.1, "bytes": [97]},
        {"token": "b", "logprob": -2.0, "bytes": [98]},
    ]


def test_chat_logprobs_without_alternatives(client, engine) -> None:
    client.chat.completions.create(
        model="org/tiny", messages=[{"role": "user", "content": "hi"}], logprobs=True
    )
    assert engine.requests[0].params.logprobs == 0


def test_chat_without_logprobs_asks_for_none(http, engine) -> None:
    assert chat(http, logprobs=False)["choices"][0]["logprobs"] is None
    assert engine.requests[0].params.logprobs is None


def test_completion_logprobs_are_four_lists_of_one_length(http, engine) -> None:
    engine.script = engine.saying("xa", "y")
    logprobs = complete(http)["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["x", "a", "y"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        # the chosen "a" is one of the likeliest and listed once
        "top_logprobs": [
            {"a": -0.1, "b": -2.0, "x": -0.5},
            {"a": -0.1, "b": -2.0},
            {"a": -0.1, "b": -2.0, "y": -0.5},
        ],
        "text_offset": [0, 1, 2],
    }


@pytest.mark.parametrize("text", ["aé🦜z", "é" + "\N{PARROT}"])
def test_completion_tokens_join_to_the_text(http, engine, text) -> None:
    engine.script = engine.saying(text)
    logprobs = complete(http)["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == text
    assert len(logprobs["tokens"]) == len(text.encode())
    offsets = [len("".join(logprobs["tokens"][:i])) for i in range(len(logprobs["tokens"]))]
    assert logprobs["text_offset"] == offsets


def test_streamed_completion_logprobs_join_to_the_same(http, engine) -> None:
    engine.script = engine.saying("aé", "", "🦜", "z")
    whole = complete(http)["choices"][0]["logprobs"]
    chunks = events(http, TEXT, {"prompt": "hi", "logprobs": 2})
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert parts[-1] is None
    for name in whole:
        assert list(chain.from_iterable(part[name] for part in parts[:-1])) == whole[name]


def test_a_chunk_of_several_tokens_has_an_entry_for_each(http, engine) -> None:
    engine.script = engine.saying("abc", "d")
    body = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True}
    chunks = events(http, CHAT, body)
    counts = [len((c["choices"][0]["logprobs"] or {"content": []})["content"]) for c in chunks]
    assert counts == [0, 3, 1, 0]


def test_tokens_whose_text_is_held_back_are_reported_at_once(http, engine) -> None:
    async def script(request) -> AsyncIterator[RequestOutput]:
        first, second = engine.logprobs("é")
        yield RequestOutput(request_id=request.id, logprobs=(first,))
        yield RequestOutput(
            request_id=request.id, text="é", logprobs=(second,), finish_reason="stop"
        )

    engine.script = script
    chunks = events(http, TEXT, {"prompt": "hi", "logprobs": 0})
    parts = [(c["choices"][0]["text"], c["choices"][0]["logprobs"]["tokens"]) for c in chunks[:2]]
    assert parts == [("", [""]), ("é", ["é"])]


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_json_has_no_infinities(http, engine, value) -> None:
    async def script(request) -> AsyncIterator[RequestOutput]:
        token = TokenLogprob(5, value, ((6, -1.0), (7, value)))
        yield RequestOutput(
            request_id=request.id, text="x", logprobs=(token,), finish_reason="stop"
        )

    engine.script = script
    entry = chat(http, top_logprobs=2)["choices"][0]["logprobs"]["content"][0]
    assert entry["logprob"] == -9999.0
    assert [top["logprob"] for top in entry["top_logprobs"]] == [-1.0, -9999.0]
    assert complete(http)["choices"][0]["logprobs"]["token_logprobs"] == [-9999.0]


def test_special_tokens_stand_for_their_names(engine) -> None:
    texts = TokenText(engine.tokenizer)
    assert texts.bytes_of(engine.tokenizer.eos_token_id) == b"<|end|>"


def test_special_tokens_are_not_read_as_bytes() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<é>"])
    texts = TokenText(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert texts.bytes_of(256) == "<é>".encode()


def test_ids_beyond_the_tokenizer_stand_for_nothing(engine) -> None:
    assert TokenText(engine.tokenizer).bytes_of(100_000) == b""


def test_tokens_of_sentencepiece_vocabularies() -> None:
    vocab = {"▁once": 0, "<0xE2>": 1, "upon": 2, "<unk>": 3}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    texts = TokenText(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert [texts.bytes_of(i) for i in range(3)] == [b" once", b"\xe2", b"upon"]
