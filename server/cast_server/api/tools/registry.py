"""All formats, and which one a model writes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cast_server.api.tools.base import ToolFormat
from cast_server.api.tools.hermes import Hermes
from cast_server.api.tools.llama3_json import Llama3Json
from cast_server.api.tools.mistral import Mistral

FORMATS: Final[Mapping[str, ToolFormat]] = MappingProxyType(
    {
        "hermes": Hermes(),
        "llama3_json": Llama3Json(),
        "mistral": Mistral(),
    }
)


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template teaches its model; None if it is none of these."""
    return next((one for one in FORMATS.values() if one.is_taught_by(template)), None)
