"""From messages and prompts to token ids. Slow for long texts: to be called off the event loop."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jinja2 import TemplateError

from cast_server.api.fields import TokenIds
from cast_server.api.protocol import ChatMessage
from cast_server.api.tools.definitions import Tool
from cast_server.api.tools.dialect import Dialect
from cast_server.errors import RequestError


def chat_prompt(
    tokenizer: Any,
    messages: tuple[ChatMessage, ...],
    *,
    tools: Sequence[Tool] = (),
    dialect: Dialect | None = None,
    variables: Mapping[str, Any] = MappingProxyType({}),
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    add_special_tokens: bool = False,
) -> TokenIds:
    """The conversation in the model's own format, up to where the assistant's answer begins, or
    goes on. `tools` are told as the model's `dialect` has it. `variables` are the template's own.
    As a rule the template writes every special token itself.
    """
    _check_variables(tokenizer, variables)
    conversation = [_as_template_input(message) for message in messages]
    definitions: Sequence[dict[str, Any]] = [tool.for_template() for tool in tools]
    if dialect is not None:
        conversation, definitions = dialect.expressed(conversation, definitions)
    try:
        text = tokenizer.apply_chat_template(
            conversation,
            tools=list(definitions) or None,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **variables,
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
    prompt = encode(tokenizer, text, "messages", add_special_tokens=add_special_tokens)
    if not prompt:
        raise RequestError("The model's chat template makes nothing of these messages.", "messages")
    return prompt


def completion_prompts(
    tokenizer: Any, prompts: Sequence[str | TokenIds], param: str = "prompt"
) -> list[TokenIds]:
    """The token ids of the prompts of /v1/completions; ids that the client sent stay as is."""
    encoded = [
        encode(tokenizer, prompt, param, add_special_tokens=True)
        if isinstance(prompt, str)
        else prompt
        for prompt in prompts
    ]
    if not all(encoded):
        raise RequestError(f"{param} must not be empty.", param)
    return encoded


def _as_template_input(message: ChatMessage) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    given = {**(message.model_extra or {}), "role": role, "content": message.content or ""}
    if message.tool_calls:
        given["tool_calls"] = [call.for_template() for call in message.tool_calls]
    if message.tool_call_id is not None:
        given["tool_call_id"] = message.tool_call_id
    return given


def _check_variables(tokenizer: Any, variables: Mapping[str, Any]) -> None:
    """They must not change what the server itself gives to the template."""
    own = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    for name in variables:
        if name in own:
            raise RequestError(
                f"chat_template_kwargs must not set {name!r}, which is not the template's own.",
                "chat_template_kwargs",
            )


def encode(tokenizer: Any, text: str, param: str, *, add_special_tokens: bool) -> TokenIds:
    """The text's token ids. Raises `RequestError` if it is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{param} is not valid Unicode: it holds half of a surrogate pair.", param
        ) from error
    return tuple(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
