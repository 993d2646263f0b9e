"""/tokenize, /detokenize and /tokenizer_info, with the shapes that vLLM gave them."""

from __future__ import annotations

import json

import httpx2
import pytest
import reading_server
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

TEXT = "the cat über 猫🙂<|end|>"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "猫?"}]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    """It begins every text with <|end|>."""
    plain = tiny_models.byte_level_tokenizer()
    backend = type(plain.backend_tokenizer).from_str(plain.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", chat_template=TEMPLATE
    )


@pytest.fixture(scope="module")
def http(tokenizer):
    model = tiny_models.model_of("llama")
    with (
        tiny_models.one_thread(),
        reading_server.serving(model, tokenizer) as (url, _),
        httpx2.Client(base_url=url, timeout=30) as http,
    ):
        yield http


def tokenize(http, **fields):
    answer = http.post("/tokenize", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_text(http, tokenizer) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenize(http, prompt=TEXT) == {
        "count": len(ids),
        "max_model_len": 256,
        "tokens": ids,
        "token_strs": None,
    }
    bare = tokenize(http, prompt=TEXT, add_special_tokens=False)
    assert bare["tokens"] == ids[1:]


def test_names_of_tokens(http, tokenizer) -> None:
    answer = tokenize(http, prompt="the cat", return_token_strs=True)
    assert answer["token_strs"] == tokenizer.convert_ids_to_tokens(answer["tokens"])
    assert answer["token_strs"][0] == "<|end|>"


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("special", [True, False])
def test_a_conversation(http, tokenizer, opened, special) -> None:
    text = "system: Be brief.\nuser: 猫?\n" + "assistant: " * opened
    expected = tokenizer(text, add_special_tokens=special)["input_ids"]
    fields = {"add_generation_prompt": opened, "add_special_tokens": special}
    assert tokenize(http, messages=CHAT, **fields)["tokens"] == expected


def test_defaults_of_a_conversation_are_those_of_chats(http) -> None:
    count = tokenize(http, messages=CHAT, model=None)["count"]
    body = {"messages": CHAT, "max_tokens": 1}
    assert http.post("/v1/chat/completions", json=body).json()["usage"]["prompt_tokens"] == count


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40))
def test_there_and_back(http, text) -> None:
    tokens = tokenize(http, prompt=text, add_special_tokens=False)["tokens"]
    assert http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": text}


def test_special_tokens_come_back_by_name(http, tokenizer) -> None:
    tokens = tokenizer("a")["input_ids"]
    assert http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "<|end|>a"}


def test_about_the_tokenizer(http, tokenizer) -> None:
    about = http.get("/tokenizer_info").json()
    assert about["tokenizer_class"] == type(tokenizer).__name__
    assert about["eos_token"] == "<|end|>"
    assert about["bos_token"] is None
    assert about["chat_template"] == TEMPLATE
    assert about["model_max_length"] == 256
    assert about["vocab_size"] == len(tokenizer)
    assert about["added_tokens_decoder"] == {"0": {"content": "<|end|>", "special": True}}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": CHAT}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": CHAT, "tools": [{"type": "function"}]}, "tools"),
        ("/tokenize", {"messages": CHAT, "chat_template": "{{ 1 }}"}, "chat_template"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [320]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
    ],
)
def test_what_cannot_be_is_refused(http, path, body, param) -> None:
    # in ASCII, as the client's own encoder refuses half a surrogate pair
    headers = {"content-type": "application/json"}
    answer = http.post(path, content=json.dumps(body), headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_unknown_models_are_404(http, path) -> None:
    answer = http.post(path, json={"model": "other", "prompt": "a", "tokens": [1]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
