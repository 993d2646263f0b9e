"""All formats, and which one a model writes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cast_server.api.tools.base import ToolFormat
from cast_server.api.tools.definitions import Offer
from cast_server.api.tools.hermes import Hermes
from cast_server.api.tools.llama3_json import Llama3Json
from cast_server.api.tools.mistral import Mistral
from cast_server.api.tools.reader import CallReader

FORMATS: Final[Mapping[str, ToolFormat]] = MappingProxyType(
    {
        "hermes": Hermes(),
        "llama3_json": Llama3Json(),
        "mistral": Mistral(),
    }
)


def format_of(text: str, offer: Offer) -> ToolFormat | None:
    """The format in which a text calls a function of the offer; None if it is none of these."""
    for tool_format in FORMATS.values():
        reader = CallReader(tool_format, offer)
        reader.read(text, is_last=True)
        if reader.has_called:
            return tool_format
    return None
