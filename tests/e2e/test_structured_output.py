"""Structured output from the real model, by the official client: valid, and never other tokens."""

from __future__ import annotations

import json

import jsonschema
import pytest
from e2e.serving import MODEL
from e2e.test_answers import streamed_chat, with_policy
from pydantic import BaseModel

SCHEMAS = {
    "city": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "population": {"type": "integer"},
            "languages": {"type": "array", "items": {"enum": ["fr", "de", "en"]}, "maxItems": 3},
        },
        "required": ["name", "population", "languages"],
        "additionalProperties": False,
    },
    "verdict": {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "kind": {"const": "yes"},
                    "why": {"type": "string", "maxLength": 60},
                },
                "required": ["kind", "why"],
                "additionalProperties": False,
            },
            {"const": {"kind": "no"}},
        ]
    },
    "dates": {"type": "array", "items": {"type": "string", "format": "date"}, "maxItems": 3},
}


class Animal(BaseModel):
    species: str
    legs: int
    is_wild: bool


def ask(schema_name: str, **fields):
    wish = {"name": schema_name, "schema": SCHEMAS[schema_name], "strict": True}
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Tell me of a {schema_name}, in JSON."}],
        "response_format": {"type": "json_schema", "json_schema": wish},
        "max_tokens": 160,
    } | fields


def test_a_schema_holds_whole_and_streamed(client) -> None:
    fields = ask("city", temperature=1.0, seed=4)
    whole = client.chat.completions.create(**fields, **with_policy("off"))
    chunks = list(client.chat.completions.create(**fields, stream=True, **with_policy("tree:12")))
    text = whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(text), SCHEMAS["city"])
    assert streamed_chat(chunks) == text
    assert chunks[-1].metrics["speculative_decoding"]["num_accepted_draft_tokens"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_policy_gives_the_same_valid_answer(client, name, temperature) -> None:
    for seed in range(3):
        fields = ask(name, temperature=temperature, seed=seed)
        answers = [
            client.chat.completions.create(**fields, **with_policy(policy)).choices[0]
            for policy in ("off", "chain:4", "tree:16", "cast")
        ]
        assert len({answer.message.content for answer in answers}) == 1
        if answers[0].finish_reason == "stop":
            jsonschema.validate(json.loads(answers[0].message.content), SCHEMAS[name])


@pytest.mark.slow
def test_a_model_of_pydantic_comes_back_as_one(client) -> None:
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe a cat."}],
        response_format=Animal,
        temperature=0,
        max_tokens=200,
    )
    assert isinstance(answer.choices[0].message.parsed, Animal)


@pytest.mark.slow
def test_other_forms(client) -> None:
    say = {"model": MODEL, "prompt": "The best colour is ", "max_tokens": 40, "temperature": 0}

    def text(**body) -> str:
        return client.completions.create(**say, extra_body=body).choices[0].text

    assert text(guided_choice=["red", "blue"]) in ("red", "blue")
    assert text(structured_outputs={"regex": "#[0-9a-f]{6}"})[0] == "#"
    assert text(guided_grammar='root ::= "dark " ("red" | "blue")').startswith("dark ")
    chat = {"messages": [{"role": "user", "content": "Say something in JSON."}], "model": MODEL}
    wish = {"response_format": {"type": "json_object"}, "max_tokens": 200, "temperature": 0}
    answer = client.chat.completions.create(**chat, **wish).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)
