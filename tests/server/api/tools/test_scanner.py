"""The scanner of JSON beside Python's own parser."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cast_server.api.tools.scanner import JsonScanner

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
).map(lambda value: [value])


def accepts(text: str) -> bool:
    scanner = JsonScanner()
    return all(scanner.accepts(char) for char in text) and scanner.is_complete


@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_all_json_is_accepted(value, ascii_only, indent) -> None:
    assert accepts(json.dumps(value, ensure_ascii=ascii_only, indent=indent))


@given(JSON)
def test_no_beginning_is_refused_or_complete(value) -> None:
    scanner = JsonScanner()
    for char in json.dumps(value):
        assert not scanner.is_complete
        assert scanner.accepts(char)


def is_json(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, strict=False, parse_constant=refuse)
    except ValueError:
        return False
    return True


@given(st.text('{}[]",:\\u0123456789-+.eE truefalsn\n', max_size=14))
@example("01")
@example("1.")
@example("-")
@example('"\\x"')
@example("{,}")
@example('{"a":1,}')
@example("[1 2]")
def test_exactly_json_is_accepted(inside) -> None:
    text = f"[{inside}]"
    assert accepts(text) == is_json(text)


@pytest.mark.parametrize("open_", ["[", '{"a":'])
def test_no_depth_is_too_deep(open_) -> None:
    scanner = JsonScanner()
    assert all(scanner.accepts(char) for char in open_ * 100_000)
