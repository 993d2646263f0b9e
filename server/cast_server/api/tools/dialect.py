"""How the served model is told of tools, and how it writes calls."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

from jinja2 import TemplateError

from cast_server.api.response_format import Form
from cast_server.api.tools.base import ToolFormat
from cast_server.api.tools.constraint import grammar_of, special_ids
from cast_server.api.tools.definitions import FunctionDefinition, Offer, Tool
from cast_server.api.tools.hermes import Hermes
from cast_server.api.tools.mistral import Mistral
from cast_server.api.tools.prompting import Conversation, told_in_words
from cast_server.api.tools.registry import FORMATS, format_of
from cast_server.errors import ConfigError, RequestError

_log = logging.getLogger(__name__)

AUTO: Final = "auto"
_PROBE: Final = Tool(type="function", function=FunctionDefinition(name="probe_of_the_template"))
_QUESTION: Final = {"role": "user", "content": "hi"}
_CALL: Final = {
    "id": "abcdefgh1",  # nine characters, as Mistral's have
    "type": "function",
    "function": {"name": _PROBE.function.name, "arguments": {"a": 1}},
}
_ANSWER: Final = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_TROUBLE: Final = (TemplateError, ValueError, TypeError, LookupError, AttributeError)


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

    @property
    def format(self) -> ToolFormat:
        """How calls are written."""
        return self._native or Hermes()  # which `told_in_words` teaches

    @cached_property
    def _native(self) -> ToolFormat | None:
        """The format of the chat template, if that knows tools and writes a past call in one."""
        before = self._rendered(_QUESTION, add_generation_prompt=True)
        if _PROBE.function.name not in before:
            _log.info("The chat template of the model knows no tools: they are told in words.")
            return None
        if self._parser != AUTO:
            return FORMATS[self._parser]
        written = self._rendered(_QUESTION, _ANSWER).removeprefix(before)
        found = format_of(written, Offer((_PROBE,)))
        if found is None:
            _log.info(
                "The chat template of the model writes tool calls as no parser here reads them: "
                "tools are told in words."
            )
        return found

    def _rendered(self, *messages: dict[str, Any], add_generation_prompt: bool = False) -> str:
        """What the template makes of messages and a tool; "" if it refuses them."""
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=[_PROBE.for_template()],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except _TROUBLE:
            return ""
        return str(text)

    def form_of(self, offer: Offer, wish: Form | None) -> Form | None:
        """What holds the answer to calls, or to calls and the form that the client wishes.

        Raises `RequestError` for a wish that does not go with calls.
        """
        if not offer.tools or not (offer.is_required or wish):
            return wish
        schema = None if wish is None or offer.is_required else _schema_of(wish)
        grammar = grammar_of(self.format, offer, self._tokenizer, schema)
        return Form(grammar, "tools", "tools")

    def sampling_changes(self, offer: Offer, form: Form | None) -> dict[str, Any]:
        """What an offer makes of a request's sampling parameters, and the form that it has."""
        changes: dict[str, Any] = {"grammar": form.grammar if form else None}
        if offer.tools and self._has_special_markers:
            changes["skip_special_tokens"] = False
        return changes

    @cached_property
    def _has_special_markers(self) -> bool:
        """Whether text without special tokens would hide where calls are."""
        return not special_ids(self._tokenizer).keys().isdisjoint(self.format.markers)

    def expressed(
        self, conversation: Conversation, tools: Sequence[dict[str, Any]]
    ) -> tuple[Conversation, Sequence[dict[str, Any]]]:
        """The conversation, and the tools that the template is to be given beside it."""
        if self._native is None:
            return told_in_words(conversation, tools), ()
        if isinstance(self._native, Mistral):
            conversation = [_with_short_ids(message) for message in conversation]
        return conversation, tools


def _schema_of(wish: Form) -> dict[str, Any]:
    """The schema of an answer that may come instead of calls."""
    schema: Any = None
    if wish.grammar.kind == "json_schema":
        with suppress(ValueError, RecursionError):
            schema = json.loads(wish.grammar.text)
    if not isinstance(schema, dict):
        raise RequestError(
            f"{wish.param} goes with tools only as the JSON schema of an object: leave it out, or "
            'set tool_choice to "none".',
            wish.param,
        )
    return schema


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
