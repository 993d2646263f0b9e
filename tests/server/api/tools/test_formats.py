"""What formats read, whole and in pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cast_server.api.tools.definitions import FunctionDefinition, Offer, Tool
from cast_server.api.tools.reader import CallReader, message_of
from cast_server.api.tools.registry import FORMATS, format_of

NAMES = ("f", "get_weather", "a-b_9")
TOOLS = tuple(Tool(type="function", function=FunctionDefinition(name=name)) for name in NAMES)
CALL = '{"name": "f", "arguments": {"a": 1}}'
ONE = [("f", '{"a": 1}')]


def read(name: str, pieces: list[str], *, is_parallel: bool = True):
    """The content, the calls, and whether all is well; chunks must be shaped as clients want."""
    reader = CallReader(FORMATS[name], Offer(TOOLS, is_parallel=is_parallel))
    deltas = [delta for piece in pieces for delta in reader.read(piece, is_last=False)]
    deltas += reader.read("", is_last=True)
    seen: list[int] = []
    for call in (delta.tool_calls[0] for delta in deltas if delta.tool_calls):
        if call.id is None:
            assert call.index == seen[-1]
            assert call.function.name is None
        else:
            assert call.index == len(seen)
            assert (call.type, call.function.arguments) == ("function", "")
            seen.append(call.index)
    message = message_of(deltas)
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    return message.content, calls, reader.has_called


def whole(name: str, text: str, **options):
    content, calls, _ = read(name, [text], **options)
    return content, calls


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", None, ONE),
        (f"<tool_call>{CALL}</tool_call>", None, ONE),
        (f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>\n", "Let me see.", ONE),
        (f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", None, ONE * 2),
        (f"<tool_call>{CALL}</tool_call> Done.", " Done.", ONE),
        (f"<tool_call>{CALL}", None, ONE),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', None, ONE),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', None, ONE),
        ('<tool_call>{"name": "f", "parameters": {"a": 1}, "id": 7}</tool_call>', None, ONE),
        ('<tool_call>{"name": "f"}</tool_call>', None, [("f", "{}")]),
        ('<tool_call>{"name": "f", "arguments": {"a": "}</tool_call>"}}', None,
         [("f", '{"a": "}</tool_call>"}')]),
    ],
)  # fmt: skip
def test_hermes(text, content, calls) -> None:
    assert whole("hermes", text) == (content, calls)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', None, ONE),
        ('\n{"type": "function", "name": "f", "parameters": {"a": 1}}\n', None, ONE),
        ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}', None, ONE),
        ('Well. <|python_tag|>{"name": "f", "parameters": {"a": 1}}', "Well.", ONE),
        (f"{CALL}; {CALL}", None, ONE * 2),
        (f"{CALL}\n{CALL}", None, ONE * 2),
        (f"{CALL} and more", " and more", ONE),
        ('{"name": "Bob", "age": 5}', '{"name": "Bob", "age": 5}', []),
        ('{"city": "Rome"}', '{"city": "Rome"}', []),
        (f"The call is {CALL}", f"The call is {CALL}", []),
    ],
)
def test_llama3_json(text, content, calls) -> None:
    assert whole("llama3_json", text) == (content, calls)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"[TOOL_CALLS][{CALL}]", None, ONE),
        (f"[TOOL_CALLS] [{CALL}, {CALL}]", None, ONE * 2),
        (f"Well.[TOOL_CALLS][{CALL}", "Well.", ONE),
        ('[TOOL_CALLS]f[ARGS]{"a": 1}', None, ONE),
        ('[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]f[CALL_ID]x1[ARGS]{"a": 1}', None, ONE * 2),
        ("[TOOL_CALLS] nothing", "[TOOL_CALLS] nothing", []),
        ('[TOOL_CALLS]g[ARGS]{"a": 1}', '[TOOL_CALLS]g[ARGS]{"a": 1}', []),
    ],
)
def test_mistral(text, content, calls) -> None:
    assert whole("mistral", text) == (content, calls)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nno json\n</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>',
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"name": ["f"], "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "more": {}}</tool_call>',
        '<tool_call>{"name": "f"',
        "<tool_call>{}</tool_call>",
        "  <tool_call>  ",
        "a < b <tool  \n",
        "",
    ],
)
def test_what_is_no_call_is_content_to_the_last_character(text) -> None:
    assert read("hermes", list(text)) == (text, [], False)


def test_a_call_after_one_that_is_none_is_read() -> None:
    bad = '<tool_call>{"name": "x"}</tool_call>'
    text = f"{bad}\n<tool_call>{CALL}</tool_call>"
    assert whole("hermes", text) == (bad, ONE)


@pytest.mark.parametrize("name", FORMATS)
def test_plain_text_is_content_as_it_is(name) -> None:
    text = " \nIn Python, a[0] < b and {x: [1, 2]}.\n\n"
    assert read(name, list(text)) == (text, [], False)


def test_arguments_that_break_off_end_a_call_that_is_not_whole() -> None:
    begin = '<tool_call>{"name": "f", "arguments": {"a": '
    assert read("hermes", [begin]) == (None, [("f", '{"a": ')], False)
    assert read("hermes", [begin, "oops}}"]) == ("oops}}", [("f", '{"a": ')], False)


def test_line_breaks_in_strings_become_json() -> None:
    [(_, arguments)] = whole("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x\n\ty"}}')[1]
    assert json.loads(arguments) == {"a": "x\n\ty"}


def test_where_one_call_is_allowed_the_rest_is_left_out() -> None:
    text = f"So: <tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call> and so on"
    assert whole("hermes", text, is_parallel=False) == ("So:", ONE)


def test_content_is_held_back_no_longer_than_it_may_be_a_marker() -> None:
    reader = CallReader(FORMATS["hermes"], Offer(TOOLS))
    given_out = [
        "".join(delta.content or "" for delta in reader.read(text, is_last=False))
        for text in ("Hello", " <", "b> a", "\n<tool", "_box>")
    ]
    assert given_out == ["Hello", "", " <b> a", "", "\n<tool_box>"]


def test_arguments_are_passed_on_while_they_come() -> None:
    reader = CallReader(FORMATS["hermes"], Offer(TOOLS))
    pieces = ['<tool_call>{"name": "f", "argu', 'ments": {"a', '": "long', ' text"}']
    news = [reader.read(piece, is_last=False) for piece in pieces]
    texts = [[delta.tool_calls[0].function.arguments for delta in deltas] for deltas in news]
    assert texts == [[], ["", '{"a'], ['": "long'], [' text"}']]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.text('{}[]"<>/\\tool_cal;,: \n'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(), VALUES, max_size=4)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=3)
WORDS = st.text("abc <{[é🙂", max_size=12).map(str.strip)


def written(name: str, calls: list[tuple[str, dict]], *, ascii_only: bool) -> str:
    key = "parameters" if name == "llama3_json" else "arguments"
    texts = [
        json.dumps({"name": function, key: arguments}, ensure_ascii=ascii_only)
        for function, arguments in calls
    ]
    match name:
        case "hermes":
            return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)
        case "llama3_json":
            return "<|python_tag|>" + "; ".join(texts)
        case _:
            return f"[TOOL_CALLS][{', '.join(texts)}]"


@pytest.mark.parametrize("name", FORMATS)
@given(content=WORDS, calls=CALLS, ascii_only=st.booleans(), data=st.data())
def test_any_calls_come_back_however_the_text_is_cut(
    name, content, calls, ascii_only, data
) -> None:
    text = content + written(name, calls, ascii_only=ascii_only)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    got_content, got_calls, is_well = read(name, pieces)
    assert is_well
    assert got_content == (content or None)
    assert [(name, json.loads(arguments)) for name, arguments in got_calls] == calls
    assert read(name, [text]) == (got_content, got_calls, is_well)


PARTS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", "[", "]", CALL]
PARTS += ['{"name": "f", ', '"arguments": ', '{"a": ', "1", "}", " ", "\n", "text", '"', ",", "f"]


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), st.booleans())
def test_any_text_reads_the_same_in_characters_as_in_one(name, text, is_parallel) -> None:
    once = read(name, [text], is_parallel=is_parallel)
    assert read(name, list(text), is_parallel=is_parallel) == once
    if not once[1]:
        assert once[0] == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"<think>\n\n</think>\n<tool_call>\n{CALL}\n</tool_call><|im_end|>", "hermes"),
        ('{"name": "f", "parameters": {"a": 1}}<|eot_id|>', "llama3_json"),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefgh1"}]</s>', "mistral"),
        ('[TOOL_CALLS]f[ARGS]{"a": 1}</s>', "mistral"),
        ("<tool_call>\n<function=f>\n<parameter=a>1</parameter></function></tool_call>", None),
        ("[f(a=1)]", None),
        ("", None),
    ],
)
def test_format_is_the_one_that_reads_a_call(text, name) -> None:
    assert format_of(text, Offer(TOOLS)) is (FORMATS[name] if name else None)
