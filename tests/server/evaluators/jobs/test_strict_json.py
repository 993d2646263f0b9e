from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from cast_server.evaluators.jobs.strict_json import NotFiniteError, dumps

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def is_finite(value: object) -> bool:
    if isinstance(value, dict | list):
        return all(map(is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


@given(VALUES)
def test_what_json_has_comes_back_and_what_it_has_not_is_refused(value) -> None:
    if is_finite(value):
        text = dumps(value)
        assert json.loads(text) == value
        text.encode("ascii")
    else:
        with pytest.raises(NotFiniteError):
            dumps(value)


class Inner(BaseModel):
    number: float


class Outer(BaseModel):
    inner: BaseModel


def test_models_are_dumped_as_what_they_are() -> None:
    assert dumps({"a": [Outer(inner=Inner(number=1.5))]}) == '{"a":[{"inner":{"number":1.5}}]}'


def test_the_place_of_a_number_that_json_has_not_is_named() -> None:
    with pytest.raises(NotFiniteError, match=r"^items\[1\]\.inner\.number is not finite$"):
        dumps({"items": [0.0, Outer(inner=Inner(number=math.nan))]})


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="object is not JSON"):
        dumps([object()])
