"""LiteLLM, which many programs ask models through: answers, streams, tools, and its exceptions."""

from __future__ import annotations

import json
import os
import warnings

import pytest
from tiny_server import open_up, tiny_server

from cast_server.api.keys import ApiKeys
from cast_server.config import HttpConfig

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would ask the network when imported

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its own imports deprecate
    litellm = pytest.importorskip("litellm")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydantic.*"),
]
KEY = "sk-one"
TEMPLATE = """\
{%- for tool in tools or () %}{{ tool.function.name }}{% endfor %}
{%- for message in messages %}<{{ message.role }}>{{ message.content }}
{%- for call in message.tool_calls %}
{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}</tool_call>' }}
{%- endfor %}
{%- endfor %}"""
MESSAGES = [{"role": "user", "content": "the cat"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "enum": [1, 2]}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server():
    with tiny_server(keys=ApiKeys(None, KEY), is_loading=True, step_seconds=0.002) as server:
        server.engine.tokenizer.chat_template = TEMPLATE
        open_up(server, HttpConfig(max_requests_per_key=1))
        yield server


@pytest.fixture
def ask(server):
    def complete(**options):
        plain = {"model": "openai/tiny", "api_key": KEY, "messages": MESSAGES, "max_tokens": 12}
        plain |= {"api_base": f"{server.url}/v1", "temperature": 0, "max_retries": 0}
        return litellm.completion(**plain | options)

    return complete


def test_an_answer_is_the_same_streamed_or_whole(ask) -> None:
    whole = ask()
    choice = whole.choices[0]
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    texts = (chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
    assert "".join(text or "" for text in texts) == choice.message.content
    assert chunks[-1].usage.completion_tokens == 12
    again = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert again.choices[0].message.content == choice.message.content
    assert again.usage.total_tokens == whole.usage.total_tokens


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_required_tool_is_called(ask, is_streamed) -> None:
    options = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200}
    answer = ask(tools=[TOOL], stream=is_streamed, **options)
    if is_streamed:
        answer = litellm.stream_chunk_builder(list(answer), messages=MESSAGES)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert call.function.name == "add"
    assert json.loads(call.function.arguments) in ({"a": 1}, {"a": 2})


def test_failures_are_what_they_are(ask, server) -> None:
    long = [{"role": "user", "content": "cat " * 2000}]
    for changes, kind in (
        ({"messages": long}, litellm.ContextWindowExceededError),
        ({"api_key": "sk-other"}, litellm.AuthenticationError),
        ({"model": "openai/gpt-9"}, litellm.NotFoundError),
        ({"top_p": 9}, litellm.BadRequestError),
        ({"timeout": 0.05, "max_tokens": 200}, litellm.Timeout),
    ):
        with pytest.raises(kind) as failure:
            ask(**changes)
        assert type(failure.value) is kind, changes
        server.until(lambda: server.is_idle)


def test_a_key_with_too_many_requests_is_told_to_slow_down(ask, server) -> None:
    body = {"messages": MESSAGES, "max_tokens": 200, "ignore_eos": True, "stream": True}
    head = f"Authorization: Bearer {KEY}\r\n"
    with server.post(body, head, path="/v1/chat/completions") as other:
        other.recv(100)
        with pytest.raises(litellm.RateLimitError):
            ask()
    server.until(lambda: server.is_idle)
