"""A required call is a call, whatever the model: a random one, at a high temperature."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from tiny_models import byte_level_tokenizer, model_of, tiny_core

from cast_server.api.response_format import Form
from cast_server.api.tools.definitions import FunctionDefinition, Offer, Tool
from cast_server.api.tools.dialect import Dialect
from cast_server.api.tools.reader import CallReader, message_of
from cast_server.api.tools.registry import FORMATS
from cast_server.engine.grammar import Grammar
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.errors import RequestError

COLOURS = {"type": "string", "enum": ["red", "dark green", '{"b', "日"]}
PAINT = {
    "type": "object",
    "properties": {"colour": COLOURS, "coats": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["colour", "coats"],
    "additionalProperties": False,
}
TEMPLATE = "{{ tools }}{% for message in messages %}{{ message.content }}{% endfor %}"


def tool(name: str, parameters: dict[str, Any] | None) -> Tool:
    return Tool(type="function", function=FunctionDefinition(name=name, parameters=parameters))


TOOLS = (tool("paint", PAINT), tool("wash", None))


def dialect(name: str, *special: str) -> Dialect:
    tokenizer = deepcopy(byte_level_tokenizer())
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return Dialect(tokenizer, name)


def changes_of(dialect: Dialect, offer: Offer, wish: Form | None = None) -> dict[str, Any]:
    return dialect.sampling_changes(offer, dialect.form_of(offer, wish))


def texts(
    dialect: Dialect, offer: Offer, policy: str, count: int = 6, wish: Form | None = None
) -> list[str]:
    """What a random model says to the offer, with as many seeds.

    If it may, it goes on calling for ever: what did not fit is left out.
    """
    sizes = {"max_model_len": 512, "kv_cache_tokens": 8192}
    core = tiny_core(model_of("llama"), dialect._tokenizer, **sizes)
    params = SamplingParams(
        max_tokens=500, temperature=3.0, stop_token_ids=(), **changes_of(dialect, offer, wish)
    )
    for seed in range(count):
        speculation = SpeculationParams(policy)
        core.add(Request(str(seed), (5, 6, 7), params, seed, speculation))
    said = dict.fromkeys(map(str, range(count)), "")
    while core.has_work:
        for output in core.step():
            assert output.error is None
            said[output.request_id] += output.text
            if output.finish_reason == "length":
                assert offer.is_parallel
                del said[output.request_id]
    return list(said.values())


def calls(name: str, text: str, offer: Offer) -> list[tuple[str, Any]]:
    reader = CallReader(FORMATS[name], offer)
    message = message_of(reader.read(text, is_last=True))
    assert message.content is None
    assert reader.has_called
    assert message.tool_calls
    return [(one.function.name, json.loads(one.function.arguments)) for one in message.tool_calls]


def is_right(name: str, arguments: Any) -> bool:
    if name == "wash":
        return arguments == {}
    return (
        arguments.keys() == {"colour", "coats"}
        and arguments["colour"] in COLOURS["enum"]
        and arguments["coats"] in range(1, 10)
    )


@pytest.mark.parametrize("name", FORMATS)
def test_required_calls_are_calls(name) -> None:
    offer = Offer(TOOLS, is_required=True, is_parallel=False)
    for text in texts(dialect(name), offer, "off"):
        [call] = calls(name, text, offer)
        assert is_right(*call), call


def test_drafts_change_no_required_call() -> None:
    offer = Offer(TOOLS, is_required=True, is_parallel=False)
    assert texts(dialect("hermes"), offer, "chain:4") == texts(dialect("hermes"), offer, "off")


def test_the_named_function_is_called() -> None:
    offer = Offer(TOOLS, is_required=True, name="paint", is_parallel=False)
    for text in texts(dialect("hermes"), offer, "off"):
        [(name, arguments)] = calls("hermes", text, offer)
        assert name == "paint"
        assert is_right(name, arguments)


@pytest.mark.parametrize("name", FORMATS)
def test_several_may_be_required(name) -> None:
    offer = Offer(TOOLS, is_required=True)
    made = [calls(name, text, offer) for text in texts(dialect(name), offer, "off", 12)]
    assert all(is_right(*call) for some in made for call in some)
    assert max(map(len, made)) > 1


@pytest.mark.parametrize("name", ["hermes", "mistral"])
def test_markers_that_are_special_tokens_are_one_token_and_seen(name) -> None:
    with_special = dialect(name, *FORMATS[name].markers)
    offer = Offer(TOOLS, is_required=True, is_parallel=False)
    changes = changes_of(with_special, offer)
    assert changes["skip_special_tokens"] is False
    tokenizer = with_special._tokenizer
    number = tokenizer.convert_tokens_to_ids(FORMATS[name].markers[0])
    assert f"<[{number}]>" in changes["grammar"].text


def test_an_answer_of_a_form_may_come_instead_of_a_call() -> None:
    wish = Form(Grammar("json_schema", json.dumps(PAINT)), "response_format", "response_format")
    offer = Offer(TOOLS[1:], is_parallel=False)
    said = texts(dialect("hermes"), offer, "off", 24, wish)
    answers = [json.loads(text) for text in said if not text.startswith("<tool_call>")]
    assert 0 < len(answers) < len(said)
    assert all(is_right("paint", answer) for answer in answers)
    for text in said:
        if text.startswith("<tool_call>"):
            assert calls("hermes", text, offer) == [("wash", {})]


def test_a_required_call_leaves_no_room_for_an_answer() -> None:
    wish = Form(Grammar("regex", "x"), "guided_regex", "guided_regex")
    offer = Offer(TOOLS[1:], is_required=True, is_parallel=False)
    for text in texts(dialect("hermes"), offer, "off", 2, wish):
        assert calls("hermes", text, offer) == [("wash", {})]


@pytest.mark.parametrize("text", ["{", "true", "[" * 100_000])
def test_a_form_that_does_not_go_with_calls_is_refused(text) -> None:
    for kind in ("json_schema", "regex"):
        wish = Form(Grammar(kind, text), "guided_json", "guided_json")
        with pytest.raises(RequestError, match="guided_json goes with tools only as the JSON"):
            dialect("hermes").form_of(Offer(TOOLS), wish)
