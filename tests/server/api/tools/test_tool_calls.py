"""Tool calls over HTTP, as clients make them."""

from __future__ import annotations

import json

import openai
import pytest
from pydantic import BaseModel

from cast_server.api.tools.dialect import Dialect
from cast_server.errors import ConfigError

CHATML = """\
{%- if tools %}<system>
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}
Answer with tool_call and a name.<|end|>{% endif %}
{%- for message in messages %}
{{- '<' + message.role + '>' + message.content }}
{%- for call in message.tool_calls %}
{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + '}</tool_call>' }}
{%- endfor %}<|end|>
{%- endfor %}
{%- if add_generation_prompt %}<assistant>{% if quiet %}<quiet>{% endif %}{% endif %}"""

PLAIN = """\
{%- for message in messages %}
{{- '<' + message['role'] + '>' + message['content'] + '<|end|>' }}
{%- endfor %}<assistant>"""

MISTRAL = """\
[AVAILABLE_TOOLS]{{ tools | tojson }}
{%- for message in messages %}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id + '[ARGS]{}' }}
{%- endfor %}
{%- elif message.role == 'tool' %}[TOOL_RESULTS]{{ message.tool_call_id }}
{%- else %}{{ message.content }}{% endif %}
{%- endfor %}"""

PAST_ARGUMENTS = """\
{{ tools }}
{%- for call in messages[0].tool_calls %}
{%- if call.function.arguments is string %}{{ call.function.arguments }}
{%- else %}
{%- for key, value in call.function.arguments.items() %}{{ key }}={{ value }};{% endfor %}
{%- endif %}
{%- endfor %}"""

USER = {"role": "user", "content": "Weather in Rome and Oslo?"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "time", "description": "What time it is."}}
FUNCTION_OF_ARRAY = {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
ROME, OSLO = '{"city": "Rome"}', '{"city": "Ösló {"}'
SAID = (
    "Let me ",
    "look.\n<tool",
    '_call>\n{"name": "weather", "argum',
    'ents": {"city": "Ro',
    'me"}}\n</tool_call>\n<tool_call>\n{"name": "weather", "arguments": ',
    f"{OSLO}}}\n</tool_",
    "call>",
)
CALLED = [("weather", ROME), ("weather", OSLO)]


@pytest.fixture
def served(serve) -> tuple[openai.OpenAI, object]:
    client, engine = serve(CHATML)
    engine.script = engine.saying(*SAID)
    return client, engine


def ask(client: openai.OpenAI, **fields):
    fields = {"model": "org/tiny", "messages": [USER], "tools": [WEATHER, TIME], **fields}
    return client.chat.completions.create(**fields)


def prompt_text(engine) -> str:
    return engine.tokenizer.decode(engine.requests[-1].prompt_token_ids)


def calls_of(message) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]


def refusal(client: openai.OpenAI, **fields) -> dict:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **fields)
    return caught.value.body


def test_an_answer_with_calls(served) -> None:
    [choice] = ask(served[0]).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look."
    assert calls_of(choice.message) == CALLED
    ids = [call.id for call in choice.message.tool_calls]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") for one in ids)
    assert {call.type for call in choice.message.tool_calls} == {"function"}


def test_content_is_null_beside_calls_alone(served) -> None:
    client, engine = served
    engine.script = engine.saying(f'<tool_call>{{"name": "weather", "arguments": {ROME}}}')
    assert ask(client).choices[0].message.content is None


def test_an_answer_without_calls_is_as_ever(served) -> None:
    client, engine = served
    engine.script = engine.saying("Hello", " world ")
    [choice] = ask(client).choices
    assert (choice.finish_reason, choice.message.content) == ("stop", "Hello world ")
    assert choice.message.tool_calls is None


def test_stream_adds_up_to_the_answer(served) -> None:
    content, calls, reasons = "", [], []
    for chunk in ask(served[0], stream=True):
        [choice] = chunk.choices
        reasons.append(choice.finish_reason)
        content += choice.delta.content or ""
        for news in choice.delta.tool_calls or ():
            if news.id:
                assert (news.index, news.type) == (len(calls), "function")
                assert news.function.arguments == ""
                calls.append([news.function.name, ""])
            calls[news.index][1] += news.function.arguments
    assert content == "Let me look."
    assert [tuple(call) for call in calls] == CALLED
    assert reasons[-1] == "tool_calls"
    assert set(reasons[:-1]) == {None}


class weather(BaseModel):
    city: str


def test_the_clients_own_stream_helper_parses_calls(served) -> None:
    client, _ = served
    tools = [openai.pydantic_function_tool(weather)]
    messages = [USER]
    with client.chat.completions.stream(model="org/tiny", messages=messages, tools=tools) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"content.delta", "tool_calls.function.arguments.delta"} <= kinds
    assert "tool_calls.function.arguments.done" in kinds
    parsed = [call.function.parsed_arguments for call in final.choices[0].message.tool_calls]
    assert parsed == [weather(city="Rome"), weather(city="Ösló {")]


def test_every_choice_has_its_own_calls(served) -> None:
    client, engine = served

    def script(request):
        is_first = engine.copy_of(request) == 0
        return engine.saying(*(SAID if is_first else ("no", " call")))(request)

    engine.script = script
    whole = ask(client, n=2)
    assert [choice.finish_reason for choice in whole.choices] == ["tool_calls", "stop"]
    assert calls_of(whole.choices[0].message) == CALLED
    options = {"model": "org/tiny", "messages": [USER], "n": 2}
    with client.chat.completions.stream(**options, tools=[WEATHER]) as stream:
        final = stream.get_final_completion()
    assert [choice.finish_reason for choice in final.choices] == ["tool_calls", "stop"]
    assert calls_of(final.choices[0].message) == CALLED
    assert final.choices[1].message.content == "no call"


def test_logprobs_of_held_text_are_not_lost(served) -> None:
    client, _ = served
    whole = ask(client, logprobs=True).choices[0].logprobs.content
    streamed = [
        token
        for chunk in ask(client, logprobs=True, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert len(whole) == len("".join(SAID).encode())
    assert [token.bytes for token in streamed] == [token.bytes for token in whole]


def test_a_call_that_is_cut_off_ends_by_length(served) -> None:
    client, engine = served
    engine.script = engine.saying(*SAID[:4], finish="length")
    [choice] = ask(client).choices
    assert choice.finish_reason == "length"
    assert calls_of(choice.message) == [("weather", '{"city": "Ro')]


def test_parallel_calls_may_be_forbidden(served) -> None:
    [choice] = ask(served[0], parallel_tool_calls=False).choices
    assert calls_of(choice.message) == CALLED[:1]
    assert choice.finish_reason == "tool_calls"


def test_the_template_is_given_the_functions(served) -> None:
    client, engine = served
    ask(client)
    [system, _] = prompt_text(engine).split("Answer with")
    assert json.dumps(WEATHER) in system
    nothing = {"type": "object", "properties": {}}
    function = {"name": "time", "description": "What time it is.", "parameters": nothing}
    assert json.dumps({"type": "function", "function": function}) in system


def test_with_tool_choice_none_the_model_is_not_told(served) -> None:
    client, engine = served
    [choice] = ask(client, tool_choice="none").choices
    assert prompt_text(engine).startswith("<user>Weather")
    assert choice.message.content == "".join(SAID)
    assert choice.finish_reason == "stop"


def conversation(client) -> list[dict]:
    first = ask(client).choices[0].message
    answers = [
        {"role": "tool", "tool_call_id": call.id, "content": degrees}
        for call, degrees in zip(first.tool_calls, ("21 °C", "3 °C"), strict=True)
    ]
    return [USER, first.model_dump(exclude_none=True), *answers]


def test_a_conversation_goes_on_with_results(served) -> None:
    client, engine = served
    messages = conversation(client)
    engine.script = engine.saying("Rome is warmer.")
    [choice] = ask(client, messages=messages).choices
    assert (choice.finish_reason, choice.message.content) == ("stop", "Rome is warmer.")
    past = "".join(
        f'<tool_call>{{"name": "weather", "arguments": {one}}}</tool_call>' for one in (ROME, OSLO)
    )
    expected = f"<assistant>Let me look.{past}<|end|><tool>21 °C<|end|><tool>3 °C<|end|><assistant>"
    assert prompt_text(engine).endswith(expected)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"city": "Rome", "n": 2}', "city=Rome;n=2;"),
        ("", ""),
        *((broken, broken) for broken in ('{"city": ', "[1]", "null", '"x"', "[" * 100_000)),
    ],
)
def test_arguments_of_the_past_are_objects_unless_broken(serve, arguments, told) -> None:
    client, engine = serve(PAST_ARGUMENTS, tool_parser="hermes")
    engine.max_model_len = 200_000
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    ask(client, messages=messages, tools=[], max_tokens=1)
    assert prompt_text(engine) == f"None{told}"


def test_a_template_without_tools_is_told_in_words(serve) -> None:
    client, engine = serve(PLAIN)
    engine.script = engine.saying(*SAID)
    messages = conversation(client)
    assert calls_of(ask(client).choices[0].message) == CALLED
    assert prompt_text(engine).startswith("<system>You may call functions")
    assert json.dumps(WEATHER) in prompt_text(engine)
    messages.insert(0, {"role": "system", "content": "Be brief."})
    ask(client, messages=messages)
    assert prompt_text(engine).startswith("<system>Be brief.\n\nYou may call functions")
    past = "\n".join(
        f'<tool_call>\n{{"name": "weather", "arguments": {one}}}\n</tool_call>'
        for one in (ROME, OSLO)
    )
    results = "\n".join(f"<tool_response>\n{one}\n</tool_response>" for one in ("21 °C", "3 °C"))
    expected = f"<assistant>Let me look.\n{past}<|end|><user>{results}<|end|><assistant>"
    assert prompt_text(engine).endswith(expected)


def test_mistrals_templates_get_the_ids_they_insist_on(serve) -> None:
    client, engine = serve(MISTRAL, "[TOOL_CALLS]")
    engine.script = engine.saying(f'[TOOL_CALLS][{{"name": "weather", "arguments": {ROME}}}]')
    message = ask(client).choices[0].message
    assert calls_of(message) == CALLED[:1]
    [call] = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 °C"}
    ask(client, messages=[USER, message.model_dump(exclude_none=True), result])
    [_, call_id] = prompt_text(engine).split("[CALL_ID]")
    assert call_id[:9] == call_id.removeprefix(f"{call_id[:9]}[ARGS]{{}}[TOOL_RESULTS]")
    assert engine.requests[-1].params.skip_special_tokens is False


def test_markers_that_are_no_special_tokens_leave_these_hidden(served) -> None:
    client, engine = served
    ask(client)
    assert engine.requests[-1].params.skip_special_tokens is True


def test_the_parser_may_be_chosen(serve) -> None:
    client, engine = serve("{{ tools }}{{ messages[0].content }}", tool_parser="mistral")
    engine.script = engine.saying(f"[TOOL_CALLS]weather[ARGS]{ROME}")
    assert calls_of(ask(client).choices[0].message) == CALLED[:1]


def test_a_template_of_a_form_that_no_parser_reads_is_not_used(serve) -> None:
    client, engine = serve("{{ tools }}{{ messages[0].content }}")
    engine.script = engine.saying(*SAID)
    assert calls_of(ask(client).choices[0].message) == CALLED
    assert prompt_text(engine).startswith("NoneYou may call functions")


def test_an_unknown_parser_is_refused(engine) -> None:
    with pytest.raises(ConfigError, match=r"--tool-parser xml: .*; there are auto, hermes, llama"):
        Dialect(engine.tokenizer, "xml")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "time"}}])
def test_a_call_may_be_required(served, choice) -> None:
    client, engine = served
    ask(client, tool_choice=choice)
    grammar = engine.requests[-1].params.grammar
    assert grammar.kind == "lark"
    assert ("weather" in grammar.text) == (choice == "required")
    ask(client)
    assert engine.requests[-1].params.grammar is None


def test_a_schema_that_cannot_be_held_to_is_refused(served) -> None:
    client, engine = served
    function = {"name": "f", "parameters": {"properties": {"a": {"type": "colour"}}}}
    error = refusal(
        client, tools=[{"type": "function", "function": function}], tool_choice="required"
    )
    assert error["param"] == "tools"
    assert "colour" in error["message"]
    assert engine.requests == []


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [{"type": "web"}]}, "tools[0].type", "'function'"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]},
         "tools[0].function.name", "a-z, A-Z, 0-9, _ and -"),
        ({"tools": [{"type": "function", "function": {"name": "x" * 65}}]},
         "tools[0].function.name", "1 to 64"),
        ({"tools": [FUNCTION_OF_ARRAY]},
         "tools[0].function.parameters", '"object"'),
        ({"tools": [WEATHER, WEATHER]}, "tools", "2 functions called 'weather'"),
        ({"tool_choice": "any"}, "tool_choice", '"required"'),
        ({"tool_choice": {"type": "function", "name": "time"}}, "tool_choice", '"function"'),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "'x'"),
        ({"tool_choice": "auto", "tools": []}, "tool_choice", "needs tools"),
        ({"functions": [{"name": "f"}]}, "functions", "use tools"),
        ({"function_call": "auto"}, "function_call", "use tools"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "boolean"),
        ({"extra_body": {"chat_template_kwargs": {"tools": []}}}, "chat_template_kwargs", "tools"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "chat_template_kwargs",
         "messages"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(served, fields, param, words) -> None:
    client, engine = served
    error = refusal(client, **fields)
    assert error["param"] == param
    assert words in error["message"]
    assert engine.requests == []


def test_variables_of_the_template(served) -> None:
    client, engine = served
    ask(client, extra_body={"chat_template_kwargs": {"quiet": True}})
    assert prompt_text(engine).endswith("<assistant><quiet>")
