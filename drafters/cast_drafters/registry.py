"""The drafters by name. A new one is a file beside this one and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, cast

from cast_drafters.base import Drafter, TargetParts

DRAFTERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "draft-model": "cast_drafters.draft_model:DraftModelDrafter",
        "eagle": "cast_drafters.eagle.drafter:EagleDrafter",
        "ngram": "cast_drafters.ngram:NgramDrafter",
    }
)


def create_drafter(name: str, target: TargetParts | None = None, **options: Any) -> Drafter:
    """Makes the drafter `name`; `options` go to its constructor. Imports nothing else.

    Drafters that read the target's weights or hidden states have a second constructor,
    `for_target`. Raises `ValueError` for an unknown name, or with what keeps it from being made.
    """
    if name not in DRAFTERS:
        raise ValueError(f"Drafter {name!r} is unknown; choose {', '.join(DRAFTERS)}.")
    module, _, class_name = DRAFTERS[name].partition(":")
    drafter: Any = getattr(import_module(module), class_name)
    if hasattr(drafter, "for_target"):
        return cast(Drafter, drafter.for_target(target, **options))
    return cast(Drafter, drafter(**options))
