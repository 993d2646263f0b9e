"""A framework's agents: LangChain binds tools, reads calls and sends results back."""

from __future__ import annotations

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the framework's own imports deprecate
    from langchain_core import messages
    from langchain_openai import ChatOpenAI

CHATML = """\
{{ tools }}
{%- for message in messages %}<{{ message.role }}>{{ message.content }}
{%- for call in message.tool_calls %}
{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}</tool_call>' }}
{%- endfor %}
{%- endfor %}"""
SAID = ('<tool_call>{"name": "multiply", "argu', 'ments": {"a": 6, "b"', ": 7}}</tool_call>")


def multiply(a: int, b: int) -> int:
    """Multiplies two numbers."""
    return a * b


@pytest.fixture
def model(serve):
    client, engine = serve(CHATML)
    engine.script = engine.saying(*SAID)
    chat = ChatOpenAI(model="org/tiny", base_url=str(client.base_url), api_key="any", max_retries=0)
    return chat, engine


def test_bound_tools_are_called_and_answered(model) -> None:
    chat, engine = model
    agent = chat.bind_tools([multiply])
    question = messages.HumanMessage("What is 6 times 7?")
    answer = agent.invoke([question])
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("multiply", {"a": 6, "b": 7})
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    engine.script = engine.saying("It is 42.")
    result = messages.ToolMessage(str(multiply(**call["args"])), tool_call_id=call["id"])
    assert agent.invoke([question, answer, result]).content == "It is 42."
    prompt = engine.tokenizer.decode(engine.requests[-1].prompt_token_ids)
    past = '<tool_call>{"name": "multiply", "arguments": {"a": 6, "b": 7}}</tool_call>'
    assert prompt.endswith(f"<user>What is 6 times 7?<assistant>{past}<tool>42")


def test_streamed_chunks_add_up_to_a_call(model) -> None:
    chat, _ = model
    chunks = list(chat.bind_tools([multiply]).stream("What is 6 times 7?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    [call] = whole.tool_calls
    assert (call["name"], call["args"]) == ("multiply", {"a": 6, "b": 7})


def test_a_tool_may_be_forced(model) -> None:
    chat, engine = model
    for choice in ("multiply", "any"):
        chat.bind_tools([multiply], tool_choice=choice).invoke("6 times 7?")
        assert engine.requests[-1].params.grammar is not None
