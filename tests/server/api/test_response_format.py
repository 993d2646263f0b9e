"""The form of an answer as clients ask for it, and what they are told where that is impossible."""

from __future__ import annotations

import json
import threading

import pytest
from pydantic import BaseModel

from cast_server.engine.grammar import Grammar

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
BASE = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    TEXT: {"prompt": "hi"},
}
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}
BY_SCHEMA = Grammar("json_schema", json.dumps(SCHEMA))


def wrapped(schema, **fields) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema} | fields}


def post(http, path, **fields):
    return http.post(path, json=BASE[path] | fields)


def refusal(http, path=CHAT, **fields) -> dict:
    answer = post(http, path, **fields)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None, "guided_json": None, "structured_outputs": None}, None),
        (
            {"response_format": {"type": "json_object"}},
            Grammar("json_schema", '{"type": "object"}'),
        ),
        ({"response_format": wrapped(SCHEMA)}, BY_SCHEMA),
        ({"response_format": wrapped(SCHEMA, strict=True, description="x")}, BY_SCHEMA),
        ({"response_format": wrapped(SCHEMA, strict=None, description=None)}, BY_SCHEMA),
        ({"guided_json": SCHEMA}, BY_SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, BY_SCHEMA),
        ({"guided_regex": "a+"}, Grammar("regex", "a+")),
        ({"guided_choice": ["ja", "né"]}, Grammar("choice", '["ja", "né"]')),
        ({"guided_grammar": 'start: "x"'}, Grammar("gbnf", 'start: "x"')),
        ({"structured_outputs": {"json": SCHEMA}}, BY_SCHEMA),
        ({"structured_outputs": {"regex": "a+"}}, Grammar("regex", "a+")),
        ({"structured_outputs": {"choice": ["a"]}}, Grammar("choice", '["a"]')),
        ({"structured_outputs": {"grammar": 'root ::= "x"'}}, Grammar("gbnf", 'root ::= "x"')),
        (
            {"structured_outputs": {"json_object": True, "regex": None}},
            Grammar("json_schema", '{"type": "object"}'),
        ),
    ],
)
def test_every_way_to_ask_reaches_the_engine(http, engine, path, fields, grammar) -> None:
    answer = post(http, path, **fields)
    assert answer.status_code == 200, answer.text
    assert engine.requests[0].params.grammar == grammar


def test_official_client_sends_a_model_of_pydantic(client, engine) -> None:
    class Person(BaseModel):
        name: str
        tags: list[str] | None

    engine.script = engine.saying('{"name": "Ada", ', '"tags": null}')
    answer = client.chat.completions.parse(
        model=engine.model_name,
        messages=[{"role": "user", "content": "who?"}],
        response_format=Person,
    )
    assert answer.choices[0].message.parsed == Person(name="Ada", tags=None)
    grammar = engine.requests[0].params.grammar
    assert list(json.loads(grammar.text)["properties"]) == ["name", "tags"]


@pytest.mark.parametrize(
    ("wish", "param", "part"),
    [
        ({}, "response_format.type", "required"),
        ({"type": "xml"}, "response_format.type", "'json_schema'"),
        ({"type": "json_schema"}, "response_format.json_schema", "required"),
        (
            {"type": "json_schema", "json_schema": {}},
            "response_format.json_schema.name",
            "required",
        ),
        (wrapped(SCHEMA, name="a b"), "response_format.json_schema.name", "pattern"),
        (wrapped("x"), "response_format.json_schema.schema", "dictionary"),
        (
            {"type": "json_schema", "json_schema": {"name": "x"}},
            "response_format.json_schema.schema",
            "required",
        ),
        (wrapped(SCHEMA, strict="yes"), "response_format.json_schema.strict", "boolean"),
        ({"type": "json_object", "schema": SCHEMA}, "response_format.schema", "not a known field"),
        (
            {"type": "text", "json_schema": {"name": "x", "schema": {}}},
            "response_format.json_schema",
            "needs the type json_schema",
        ),
        ("json", "response_format", "object"),
        (wrapped({"not": {}}), "response_format", "Invalid schema for response_format 'thing': "),
        (wrapped({"type": "float"}), "response_format", "Invalid type: float"),
        (wrapped({"$ref": "#/x"}), "response_format", "'/x' does not exist"),
        (wrapped({"type": "string", "pattern": "(?=a)"}), "response_format", "look-around"),
        (wrapped({"const": "x" * 120_000}), "response_format", "more than the 120000 allowed"),
    ],
)
def test_wrong_response_format_is_refused_by_place(http, engine, wish, param, part) -> None:
    error = refusal(http, response_format=wish)
    assert error["param"] == param
    assert part in error["message"]
    assert error["type"] == "invalid_request_error"
    assert not engine.requests


@pytest.mark.parametrize(
    ("fields", "param", "part"),
    [
        ({"structured_outputs": {}}, "structured_outputs", "one of json, regex"),
        (
            {"structured_outputs": {"json_object": False}},
            "structured_outputs",
            "one of json, regex",
        ),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", ""),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            "structured_outputs.choice",
            "structured_outputs.regex and structured_outputs.choice exclude each other",
        ),
        (
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
            "guided_regex",
            "exclude each other",
        ),
        ({"guided_regex": "("}, "guided_regex", "unclosed group"),
        ({"guided_regex": ""}, "guided_regex", "1 character"),
        ({"guided_regex": "a?" * 5000}, "guided_regex", "10000 bytes"),
        ({"guided_choice": []}, "guided_choice", "1 item"),
        ({"guided_choice": ["a", ""]}, "guided_choice[1]", "1 character"),
        ({"guided_choice": [1]}, "guided_choice[0]", "string"),
        ({"guided_json": "not json"}, "guided_json", "Invalid schema for guided_json: "),
        ({"guided_json": '{}} , "x": {'}, "guided_json", "Invalid schema"),
        ({"guided_json": {"pattern": "a?" * 4001}}, "guided_json", "8000 characters"),
        ({"guided_grammar": "start: nope"}, "guided_grammar", 'unknown name: "nope"'),
        ({"guided_grammar": "root ::= ("}, "guided_grammar", "Invalid grammar"),
    ],
)
def test_wrong_form_of_vllms_is_refused_by_place(http, engine, fields, param, part) -> None:
    error = refusal(http, TEXT, **fields)
    assert error["param"] == param
    assert part in error["message"]
    assert not engine.requests


def test_schema_that_refers_to_itself_for_ever_harms_nobody(http) -> None:
    """Followed by recursion, on the stack that threads have, it would end the process."""
    chain = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}, {}]} for i in range(2000)}
    schema = {"$defs": chain | {"a2000": {}}, "$ref": "#/$defs/a0"}
    answer = post(http, CHAT, guided_json=schema)
    assert answer.status_code == 200, answer.text
    deep: dict = {}
    for _ in range(300):
        deep = {"items": deep}
    assert "recursion" in refusal(http, guided_json=deep)["message"]


def test_grammars_are_compiled_beside_the_event_loop(http, engine, monkeypatch) -> None:
    post(http, CHAT)  # so that the loop's thread is known
    threads = []
    compiles = engine.grammars.check
    monkeypatch.setattr(
        engine,
        "check_grammar",
        lambda grammar: (threads.append(threading.current_thread().name), compiles(grammar)),
    )
    post(http, CHAT, guided_regex="a+")
    assert threads
    assert threads[0].startswith("asyncio_")
