"""Fields of other servers that would change the answer, and that this one does not support."""

from __future__ import annotations

from collections.abc import Mapping

from cast_server.errors import RequestError

_NOT_YET = "{name} is not supported yet."
_USE_TOOLS = "{name} is not supported, as OpenAI has replaced it: use tools and tool_choice."
_CHAT_ONLY = "{name} is not supported here: it belongs to /v1/chat/completions."
_TEXT_ONLY = "{name} is not supported: this server answers in plain text."

# Values that ask for what happens anyway. Empty ones (null, false, "", [], {}) always do.
_HARMLESS: Mapping[str, tuple[object, ...]] = {
    "tool_choice": ("none",),
    "function_call": ("none",),
    "modalities": (["text"],),
}

_MESSAGES: Mapping[str, str] = {
    "suffix": _NOT_YET,
    "echo": _NOT_YET,
    "prediction": _NOT_YET,
    "prompt_logprobs": _NOT_YET,
    "functions": _USE_TOOLS,
    "function_call": _USE_TOOLS,
    "audio": _TEXT_ONLY,
    "modalities": _TEXT_ONLY,
    "web_search_options": _NOT_YET,
    "use_beam_search": _NOT_YET,
    "bad_words": _NOT_YET,
    "allowed_token_ids": _NOT_YET,
    "truncate_prompt_tokens": _NOT_YET,
    "prompt_embeds": _NOT_YET,
    "chat_template": _NOT_YET,
    "documents": _NOT_YET,
}

_CHAT_FIELDS: Mapping[str, str] = dict.fromkeys(
    ("tools", "tool_choice", "chat_template_kwargs", "continue_final_message"), _CHAT_ONLY
)


def refuse_unsupported(body: Mapping[str, object]) -> None:
    """Raises `RequestError` for the first field whose silent loss would change the answer."""
    _refuse(body, _MESSAGES)


def refuse_chat_fields(body: Mapping[str, object]) -> None:
    """The same for what only chats have."""
    _refuse(body, _CHAT_FIELDS)


def _refuse(body: Mapping[str, object], messages: Mapping[str, str]) -> None:
    for name, message in messages.items():
        value = body.get(name)
        if value and value not in _HARMLESS.get(name, ()):
            raise RequestError(message.format(name=name), name)
