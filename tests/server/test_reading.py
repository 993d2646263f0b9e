"""Echo, prompt_logprobs and best_of over HTTP, on a tiny model that computes them."""

from __future__ import annotations

import json
from itertools import chain

import httpx2
import openai
import pytest
import reading_server
import tiny_models
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from cast_server.api.echo import prompt_pieces
from cast_server.api.token_text import TokenText

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
CAT = "the cat über 猫🙂 and the end."


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with tiny_models.one_thread():
        yield


@pytest.fixture(scope="module")
def tokenizer():
    """It begins every text with <|end|>, and knows a template."""
    plain = tiny_models.byte_level_tokenizer()
    backend = type(plain.backend_tokenizer).from_str(plain.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    template = "{% for m in messages %}{{ m.content }};{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|end|>", chat_template=template
    )


@pytest.fixture(scope="module")
def url(tokenizer):
    model = tiny_models.model_of("llama")
    with reading_server.serving(model, tokenizer, max_batched_tokens=32) as (url, _):
        yield url


@pytest.fixture(scope="module")
def http(url):
    with httpx2.Client(base_url=url, timeout=30) as http:
        yield http


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        yield client


def complete(http, **fields):
    answer = http.post(TEXT, json={"temperature": 0, "max_tokens": 4} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refusal(http, path=TEXT, **fields):
    base = {"prompt": CAT} if path == TEXT else {"messages": [{"role": "user", "content": CAT}]}
    answer = http.post(path, json=base | fields)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def plain(token_ids):
    with torch.inference_mode():
        logits = tiny_models._model("llama")(torch.tensor([token_ids])).logits[0]
    return logits.float().log_softmax(-1)


def ids_of(tokenizer, text):
    return tokenizer(text)["input_ids"]


def events(http, **fields):
    text = http.post(TEXT, json={"temperature": 0, "stream": True} | fields).text
    return [json.loads(event[6:]) for event in text.split("\n\n") if event.startswith("data: {")]


# Echo


def test_the_prompt_comes_first(http) -> None:
    plain_text = complete(http, prompt=CAT)["choices"][0]["text"]
    answer = complete(http, prompt=CAT, echo=True)
    assert answer["choices"][0]["text"] == CAT + plain_text
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("most", [0, 1, 3])
def test_logprobs_are_those_of_a_plain_forward_pass(http, tokenizer, most) -> None:
    choice = complete(http, prompt=CAT, echo=True, logprobs=2, max_tokens=most)["choices"][0]
    ids, told = ids_of(tokenizer, CAT), choice["logprobs"]
    assert choice["finish_reason"] == "length"
    assert "".join(told["tokens"]) == choice["text"]
    assert choice["text"].startswith(CAT)
    starts = [len("".join(told["tokens"][:i])) for i in range(len(told["tokens"]))]
    assert told["text_offset"] == starts
    assert {len(column) for column in told.values()} == {len(ids) + most}
    assert told["token_logprobs"][0] is None
    assert told["top_logprobs"][0] is None
    expected = plain(ids)
    for place, token_id in enumerate(ids[1:]):
        logprob, top = told["token_logprobs"][place + 1], told["top_logprobs"][place + 1]
        assert logprob == pytest.approx(float(expected[place, token_id]), abs=1e-4)
        assert max(top.values()) == pytest.approx(float(expected[place].max()), abs=1e-4)
        assert logprob in top.values()
        assert len(top) in (2, 3)


@pytest.mark.parametrize("logprobs", [None, 1])
def test_nothing_is_written_if_nothing_is_asked_for(client, logprobs) -> None:
    answer = client.completions.create(
        model="org/tiny", prompt=CAT, echo=True, max_tokens=0, logprobs=logprobs
    )
    assert answer.choices[0].text == CAT
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 0


@pytest.mark.parametrize("logprobs", [None, 0, 2])
@pytest.mark.parametrize("most", [0, 5])
def test_a_stream_begins_with_the_prompt_and_adds_up(http, logprobs, most) -> None:
    fields = {"prompt": [CAT * 3, "a"], "n": 2, "echo": True, "max_tokens": most}
    fields |= {"logprobs": logprobs, "seed": 5}
    whole = complete(http, **fields)["choices"]
    news = [c for event in events(http, **fields) for c in event["choices"]]
    assert [one["index"] for one in news[:4]] == [0, 1, 2, 3]
    for index, choice in enumerate(whole):
        mine = [one for one in news if one["index"] == index]
        assert (CAT * 3 if index < 2 else "a").startswith(mine[0]["text"])
        assert "".join(one["text"] for one in mine) == choice["text"]
        assert [one["finish_reason"] for one in mine] == [None] * (len(mine) - 1) + ["length"]
        told = [one["logprobs"] for one in mine if one["logprobs"] is not None]
        for name, column in (choice["logprobs"] or {}).items():
            joined = list(chain.from_iterable(one[name] for one in told))
            if name == "token_logprobs":
                assert joined[1:] == pytest.approx(column[1:], abs=1e-4)
            elif name != "top_logprobs":
                assert joined == column
        assert logprobs is not None or not told


def test_prompts_in_every_form_and_choices_in_order(http, tokenizer) -> None:
    ids = [ids_of(tokenizer, text) for text in ("the cat", "猫")]
    answer = complete(http, prompt=ids, n=2, echo=True, logprobs=0, max_tokens=1)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    # ids are given back by the names of special tokens too
    for choice, text in zip(answer["choices"], ["the cat"] * 2 + ["猫"] * 2, strict=True):
        assert choice["text"].startswith(f"<|end|>{text}")
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    [single] = complete(http, prompt=ids[0], echo=True)["choices"]
    assert single["text"].startswith("<|end|>the cat")


def test_a_prompt_may_fill_the_context_if_nothing_is_written(http) -> None:
    ids = [5] * 256
    choice = complete(http, prompt=ids, echo=True, logprobs=1, max_tokens=0)["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == 256
    error = refusal(http, prompt=ids, echo=True, max_tokens=1)
    assert error["code"] == "context_length_exceeded"


def test_a_second_time_tells_the_same(http) -> None:
    """The prompt's keys are cached by then, its logits are not."""
    fields = {"prompt": CAT * 3, "echo": True, "logprobs": 1, "max_tokens": 1}
    first, second = (complete(http, **fields)["choices"][0]["logprobs"] for _ in range(2))
    assert second["token_logprobs"][1:] == pytest.approx(first["token_logprobs"][1:], abs=1e-4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.sampled_from("ab cat.\n猫é🙂👩‍👧<|end|>"), min_size=1, max_size=30))
def test_pieces_join_to_the_prompt(text) -> None:
    plain = tiny_models.byte_level_tokenizer()
    ids = tuple(plain(text)["input_ids"])
    texts = TokenText(plain)
    of_text, of_ids = (prompt_pieces(plain, texts, one, ids) for one in (text, ids))
    assert "".join(of_text) == text
    assert len(of_text) == len(ids)
    assert of_text == of_ids  # two ways to the same cuts


# prompt_logprobs


def test_prompt_logprobs_of_a_text(http, tokenizer) -> None:
    ids = ids_of(tokenizer, CAT)
    choice = complete(http, prompt=CAT, prompt_logprobs=2, max_tokens=0)["choices"][0]
    assert_told(choice["prompt_logprobs"], ids, tokenizer)
    assert choice["text"] == ""
    assert "prompt_logprobs" not in complete(http, prompt=CAT)["choices"][0]


def test_prompt_logprobs_of_a_chat(http, tokenizer) -> None:
    body = {"messages": [{"role": "user", "content": CAT}], "prompt_logprobs": 2, "max_tokens": 1}
    told = http.post(CHAT, json=body).json()["prompt_logprobs"]
    template = tokenizer(f"{CAT};", add_special_tokens=False)["input_ids"]
    assert_told(told, template, tokenizer)


def assert_told(told, ids, tokenizer) -> None:
    assert len(told) == len(ids)
    assert told[0] is None
    expected = plain(ids)
    for place, token_id in enumerate(ids[1:]):
        entry, row = told[place + 1], expected[place]
        own = entry[str(token_id)]
        assert own["logprob"] == pytest.approx(float(row[token_id]), abs=1e-4)
        assert own["rank"] == 1 + int((row > row[token_id]).sum())
        assert own["decoded_token"] == tokenizer.decode([token_id])
        assert {1, 2} <= {one["rank"] for one in entry.values()}


def test_echo_and_prompt_logprobs_each_tell_what_was_asked_of_them(http) -> None:
    fields = {"prompt": CAT, "echo": True, "logprobs": 1, "prompt_logprobs": 4, "max_tokens": 0}
    choice = complete(http, **fields)["choices"][0]
    assert max(len(top) for top in choice["logprobs"]["top_logprobs"][1:]) <= 2
    assert min(len(entry) for entry in choice["prompt_logprobs"][1:]) >= 4


# best_of


def test_the_best_are_the_likeliest_on_average(http) -> None:
    fields = {"prompt": ["the cat", CAT], "temperature": 1.0, "seed": 3, "logprobs": 0}
    everything = complete(http, n=5, **fields)["choices"]
    answer = complete(http, n=2, best_of=5, **fields)

    def mean(choice):
        logprobs = choice["logprobs"]["token_logprobs"]
        return sum(logprobs) / len(logprobs)

    for prompt in (0, 1):
        mine = everything[5 * prompt : 5 * prompt + 5]
        best = sorted(mine, key=mean, reverse=True)[:2]
        chosen = answer["choices"][2 * prompt : 2 * prompt + 2]
        assert [one["text"] for one in chosen] == [one["text"] for one in best]
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 2 * 5 * 4
    quiet = complete(http, n=2, best_of=5, **fields | {"logprobs": None})["choices"]
    assert [one["text"] for one in quiet] == [one["text"] for one in answer["choices"]]
    assert quiet[0]["logprobs"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 129}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"echo": 1}, "echo"),
        ({"suffix": "the end"}, "suffix"),
    ],
)
def test_what_cannot_be_is_refused(http, fields, param) -> None:
    error = refusal(http, **fields)
    assert error["param"] == param
    assert param in error["message"]
