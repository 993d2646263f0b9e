"""From messages and prompts to token ids. Slow for long texts: to be called off the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from cast_server.api.protocol import ChatMessage, TokenIds
from cast_server.errors import RequestError


def chat_prompt(tokenizer: Any, messages: tuple[ChatMessage, ...]) -> TokenIds:
    """The conversation in the model's own format, up to where the assistant's answer begins."""
    conversation = [_as_template_input(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError) as error:
        raise RequestError(
            f"The model's chat template refuses these messages: {error}", "messages"
        ) from error
    except (TypeError, LookupError, AttributeError, RecursionError) as error:
        # the template itself tripped over them, and how it did would help nobody
        raise RequestError(
            "The model's chat template cannot express these messages.", "messages"
        ) from error
    # the template has written every special token itself
    prompt = _encode(tokenizer, text, "messages", add_special_tokens=False)
    if not prompt:
        raise RequestError("The model's chat template makes nothing of these messages.", "messages")
    return prompt


def completion_prompts(tokenizer: Any, prompts: Sequence[str | TokenIds]) -> list[TokenIds]:
    """The token ids of the prompts of /v1/completions; ids that the client sent stay as is."""
    encoded = [
        _encode(tokenizer, prompt, "prompt", add_special_tokens=True)
        if isinstance(prompt, str)
        else prompt
        for prompt in prompts
    ]
    if not all(encoded):
        raise RequestError("prompt must not be empty.", "prompt")
    return encoded


def _as_template_input(message: ChatMessage) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    return {**(message.model_extra or {}), "role": role, "content": message.content or ""}


def _encode(tokenizer: Any, text: str, param: str, *, add_special_tokens: bool) -> TokenIds:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{param} is not valid Unicode: it holds half of a surrogate pair.", param
        ) from error
    return tuple(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
