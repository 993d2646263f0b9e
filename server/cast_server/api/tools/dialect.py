"""How the served model is told of tools, and how it writes calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

from jinja2 import TemplateError

from cast_server.api.tools.base import ToolFormat
from cast_server.api.tools.constraint import grammar_of
from cast_server.api.tools.definitions import Offer
from cast_server.api.tools.hermes import Hermes
from cast_server.api.tools.mistral import Mistral
from cast_server.api.tools.prompting import Conversation, told_in_words
from cast_server.api.tools.registry import FORMATS, format_of
from cast_server.errors import ConfigError, RequestError

AUTO: Final = "auto"
_PROBE: Final = "probe_of_the_template"


class Dialect:
    """Found out from the tokenizer's chat template at the first request that needs it.

    parser: the name of a format, or "auto". Raises `ConfigError` if there is none of this name.
    """

    def __init__(self, tokenizer: Any, parser: str = AUTO) -> None:
        if parser not in (AUTO, *FORMATS):
            raise ConfigError(
                f"--tool-parser {parser}: there is no such parser; there are "
                f"{', '.join((AUTO, *FORMATS))}."
            )
        self._tokenizer = tokenizer
        self._parser = parser

    @cached_property
    def is_native(self) -> bool:
        """Whether the chat template knows tools. Where it does not, they are told in words."""
        function = {"name": _PROBE, "description": "", "parameters": {"type": "object"}}
        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": "hi"}],
                tools=[{"type": "function", "function": function}],
                tokenize=False,
            )
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError):
            return False
        return _PROBE in text

    @cached_property
    def _found(self) -> ToolFormat | None:
        if not self.is_native:
            return Hermes()  # which `told_in_words` teaches
        if self._parser != AUTO:
            return FORMATS[self._parser]
        return format_of(self._tokenizer.get_chat_template(tools=[{}]))

    @property
    def format(self) -> ToolFormat:
        """Raises `RequestError` if the template teaches a format that is not known here."""
        if self._found is None:
            raise RequestError(
                "The chat template of this model has it write calls in a form that the server does "
                f"not recognise: start it with --tool-parser {' or '.join(FORMATS)}, or leave out "
                "tools.",
                "tools",
            )
        return self._found

    def sampling_changes(self, offer: Offer) -> dict[str, Any]:
        """What an offer makes of a request's sampling parameters."""
        changes: dict[str, Any] = {}
        if offer.tools and self._has_special_markers:
            changes["skip_special_tokens"] = False
        if offer.is_required:
            changes["grammar"] = grammar_of(self.format, offer, self._tokenizer)
        return changes

    @cached_property
    def _has_special_markers(self) -> bool:
        """Whether text without special tokens would hide where calls are."""
        special = set(self._tokenizer.all_special_tokens)
        return not special.isdisjoint(self.format.markers)

    def expressed(
        self, conversation: Conversation, tools: Sequence[dict[str, Any]]
    ) -> tuple[Conversation, Sequence[dict[str, Any]]]:
        """The conversation, and the tools that the template is to be given beside it."""
        if not self.is_native:
            return told_in_words(conversation, tools), ()
        if isinstance(self._found, Mistral):
            conversation = [_with_short_ids(message) for message in conversation]
        return conversation, tools


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    """Mistral's templates take ids of nine letters and digits only."""
    changed = dict(message)
    if message.get("tool_call_id"):
        changed["tool_call_id"] = _short(message["tool_call_id"])
    if calls := message.get("tool_calls"):
        changed["tool_calls"] = [call | {"id": _short(call["id"] or "")} for call in calls]
    return changed


def _short(call_id: str) -> str:
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.blake2b(call_id.encode(), digest_size=5).hexdigest()[:9]
