"""Fields of other servers that would change the answer, and that this one does not support."""

from __future__ import annotations

from collections.abc import Mapping

from cast_server.errors import RequestError

_NOT_YET = "{name} is not supported yet."
_NO_TOOLS = "{name} is not supported yet: this server calls no tools."
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
    "tools": _NO_TOOLS,
    "tool_choice": _NO_TOOLS,
    "functions": _NO_TOOLS,
    "function_call": _NO_TOOLS,
    "audio": _TEXT_ONLY,
    "modalities": _TEXT_ONLY,
    "web_search_options": _NOT_YET,
    "use_beam_search": _NOT_YET,
    "bad_words": _NOT_YET,
    "allowed_token_ids": _NOT_YET,
    "truncate_prompt_tokens": _NOT_YET,
    "prompt_embeds": _NOT_YET,
    "chat_template": _NOT_YET,
    "chat_template_kwargs": _NOT_YET,
    "continue_final_message": _NOT_YET,
    "documents": _NOT_YET,
}


def refuse_unsupported(body: Mapping[str, object]) -> None:
    """Raises `RequestError` for the first field whose silent loss would change the answer."""
    for name, message in _MESSAGES.items():
        value = body.get(name)
        if value and value not in _HARMLESS.get(name, ()):
            raise RequestError(message.format(name=name), name)
