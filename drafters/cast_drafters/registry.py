"""The drafters by name. A new one is a file beside this one and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, cast

from cast_drafters.base import Drafter

DRAFTERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ngram": "cast_drafters.ngram:NgramDrafter",
    }
)


def create_drafter(name: str, **options: Any) -> Drafter:
    """Makes the drafter `name`; `options` go to its constructor. Imports nothing else.

    Raises `ValueError` for an unknown name.
    """
    if name not in DRAFTERS:
        raise ValueError(f"Drafter {name!r} is unknown; choose {', '.join(DRAFTERS)}.")
    module, _, class_name = DRAFTERS[name].partition(":")
    return cast(Drafter, getattr(import_module(module), class_name)(**options))
