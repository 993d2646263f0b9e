"""JSON as the standard has it: no NaN, no Infinity. What is undefined is None, with a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel


class NotFiniteError(ValueError):
    """A number that JSON does not have. Says where it was found."""


def dumps(value: Any) -> str:
    """`value` in ASCII, so that no text can be too odd to be stored or sent; models are dumped.

    Raises `NotFiniteError` for NaN and Infinity, and `TypeError` for what is no JSON at all.
    """
    plain = value.model_dump(serialize_as_any=True) if isinstance(value, BaseModel) else value
    try:
        return json.dumps(plain, allow_nan=False, separators=(",", ":"), default=_plain)
    except ValueError as cause:
        found = next(_not_finite(plain, ""), None)
        raise NotFiniteError(f"{found or 'a number'} is not finite") from cause


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(serialize_as_any=True)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _not_finite(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        value = value.model_dump(serialize_as_any=True)
    if isinstance(value, float) and not math.isfinite(value):
        yield path or "the value"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _not_finite(inner, f"{path}[{i}]")
