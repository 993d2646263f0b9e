"""LangChain: usage at the end of a stream, structured output, and a prompt that is too long."""

from __future__ import annotations

import warnings

import pytest
from langchain_core.exceptions import ContextOverflowError
from pydantic import BaseModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its own imports deprecate
    from langchain_openai import ChatOpenAI


class Pick(BaseModel):
    """What the model is to answer."""

    number: int
    is_even: bool


SCHEMA = {
    "title": "pick",
    "type": "object",
    "properties": {"letter": {"enum": ["a", "b"]}},
    "required": ["letter"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def chat(server):
    options = {"max_retries": 0, "temperature": 0, "max_tokens": 120}
    return ChatOpenAI(model="tiny", base_url=f"{server.url}/v1", api_key="any", **options)


def test_a_stream_ends_with_its_usage(chat) -> None:
    *chunks, last = chat.stream("the cat", stream_usage=True, max_tokens=9)
    whole = chat.invoke("the cat", max_tokens=9)
    told = [chunk for chunk in (*chunks, last) if chunk.usage_metadata]
    assert len(told) == 1
    assert told[0].usage_metadata["output_tokens"] == 9
    assert told[0].usage_metadata["total_tokens"] == whole.usage_metadata["total_tokens"]
    assert "".join(chunk.text for chunk in (*chunks, last)) == whole.text


@pytest.mark.parametrize("schema", [Pick, SCHEMA])
def test_structured_output_follows_the_schema(chat, schema) -> None:
    found = chat.with_structured_output(schema, method="json_schema").invoke("the cat")
    if schema is Pick:
        assert isinstance(found, Pick)
    else:
        assert found["letter"] in ("a", "b")


def test_a_prompt_that_is_too_long_is_known_as_that(chat) -> None:
    with pytest.raises(ContextOverflowError):
        chat.invoke("cat " * 500)
    with pytest.raises(ContextOverflowError):
        list(chat.stream("cat " * 500))
