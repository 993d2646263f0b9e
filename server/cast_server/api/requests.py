"""From an HTTP request's body to the engine's requests, one for each answer asked for."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from cast_server.api.engine import Engine
from cast_server.api.fields import MAX_CHOICES, TokenIds
from cast_server.api.protocol import ChatCompletionRequest, CompletionRequest
from cast_server.engine.request import Request, SamplingParams, SpeculationParams
from cast_server.errors import ContextLengthError, RequestError, UnknownModelError

_Body = ChatCompletionRequest | CompletionRequest
_DEFAULT_COMPLETION_TOKENS = 16
_SEED_MASK = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """The engine's requests of one HTTP request: `copies` a prompt, the best `num_kept` of which
    become choices, in order."""

    id: str
    requests: tuple[Request, ...]
    copies: int
    num_kept: int

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of all prompts; a prompt counts once, however many copies share it."""
        return sum(len(request.prompt_token_ids) for request in self.requests[:: self.copies])

    def expecting(self, prediction: TokenIds) -> RequestGroup:
        """The same, with what every answer is expected to resemble."""
        requests = tuple(replace(one, prediction=prediction) for one in self.requests)
        return replace(self, requests=requests)


class _Naming(Protocol):
    @property
    def model(self) -> str | None: ...


def check_model(body: _Naming, engine: Engine) -> None:
    """Raises `UnknownModelError` unless the body names the served model, or none."""
    if body.model is not None:
        check_model_name(body.model, engine)


def check_model_name(name: str, engine: Engine) -> None:
    """Raises `UnknownModelError` unless `name` is the served model's."""
    if name != engine.model_name:
        raise UnknownModelError(f"The model `{name}` does not exist.", "model")


def chat_requests(
    engine: Engine,
    body: ChatCompletionRequest,
    prompt: TokenIds,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> RequestGroup:
    """The engine's requests for a conversation; by default an answer may fill the context.

    `changes`: sampling parameters that are not what the body's fields of these names say.
    """
    wanted = body.max_completion_tokens or body.max_tokens
    room = room_for(engine, len(prompt), wanted, "messages")
    sized = [(prompt, room if wanted is None else wanted)]
    return _group(engine, body, "chatcmpl", sized, changes)


def completion_requests(
    engine: Engine, body: CompletionRequest, prompts: Sequence[TokenIds]
) -> RequestGroup:
    """The engine's requests for one or many prompts, all checked before any of them starts."""
    if len(prompts) * body.copies > MAX_CHOICES:
        name = "n" if body.copies == body.n else "best_of"
        raise RequestError(
            f"at most {MAX_CHOICES} answers can be asked for at once, "
            f"got {len(prompts)} prompts times {name} = {body.copies}.",
            name if len(prompts) == 1 else "prompt",
        )
    sized = []
    for prompt in prompts:
        check_token_ids(engine, prompt, "prompt")
        room = room_for(engine, len(prompt), body.max_tokens, "prompt")
        default = min(_DEFAULT_COMPLETION_TOKENS, room)
        sized.append((prompt, default if body.max_tokens is None else body.max_tokens))
    return _group(engine, body, "cmpl", sized)


def seed_of_copy(seed: int, copy: int) -> int:
    """The seed of the i-th answer to a prompt. The first has the client's own."""
    if copy == 0:
        return seed & _SEED_MASK
    digest = hashlib.blake2b(f"{seed & _SEED_MASK}:{copy}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & _SEED_MASK


def room_for(engine: Engine, prompt_len: int, wanted: int | None, param: str) -> int:
    """Tokens that the context leaves for the answer; raises `ContextLengthError` if they are fewer
    than `wanted`. None takes what there is, if it is any."""
    needed = 1 if wanted is None else wanted
    if prompt_len + needed > engine.max_model_len:
        raise ContextLengthError(
            f"This model's maximum context length is {engine.max_model_len} tokens. However, your "
            f"request needs {prompt_len + needed} tokens ({prompt_len} in the prompt, {needed} for "
            # clients search the message for the code, not the code's own field
            "the completion). (context_length_exceeded)",
            param,
        )
    return engine.max_model_len - prompt_len


def _group(
    engine: Engine,
    body: _Body,
    prefix: str,
    sized: Sequence[tuple[TokenIds, int]],
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> RequestGroup:
    group_id = f"{prefix}-{uuid.uuid4().hex}"
    wish = body.speculation
    speculation = SpeculationParams(
        wish.policy, wish.max_draft_tokens, wish.weight, wish.trace, wish.per_step
    )
    check_token_ids(engine, body.stop_token_ids, "stop_token_ids")
    check_token_ids(engine, body.logit_bias, "logit_bias")
    requests: list[Request] = []
    for prompt, max_tokens in sized:
        params = replace(_sampling_params(body, max_tokens), **changes)
        seed = secrets.randbits(63) if body.seed is None else body.seed
        for copy in range(body.copies):
            request = Request(
                id=f"{group_id}-{len(requests)}",
                prompt_token_ids=prompt,
                params=params,
                seed=seed_of_copy(seed, copy),
                speculation=speculation,
            )
            requests.append(request)
    for request in requests[:: body.copies]:  # copies differ in their seeds only
        engine.check(request)
    return RequestGroup(group_id, tuple(requests), body.copies, body.n)


def check_token_ids(engine: Engine, token_ids: Collection[int], param: str) -> None:
    """Raises `RequestError` unless the model knows them all."""
    # the engine checks too, but cannot say which field of the body the id came from
    last = engine.vocab_size - 1
    if token_ids and (min(token_ids) < 0 or max(token_ids) > last):
        raise RequestError(f"{param} holds a token id that is not between 0 and {last}.", param)


def _sampling_params(body: _Body, max_tokens: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=0 if body.top_k == -1 else body.top_k,  # -1 is how vLLM's clients say off
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=body.logit_bias,
        stop=body.stop,
        stop_token_ids=body.stop_token_ids,
        include_stop_str_in_output=body.include_stop_str_in_output,
        ignore_eos=body.ignore_eos,
        skip_special_tokens=body.skip_special_tokens,
        logprobs=body.num_logprobs,
        prompt_logprobs=body.num_prompt_logprobs,
        grammar=body.form.grammar if body.form else None,
    )
