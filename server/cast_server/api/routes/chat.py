"""/v1/chat/completions"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from fastapi import APIRouter, Request, Response

from cast_server.api.answering import respond
from cast_server.api.dependencies import DialectDep, EngineDep, TokenTextDep
from cast_server.api.documented import content
from cast_server.api.formats import ChatFormat, Header
from cast_server.api.prediction import prediction_tokens
from cast_server.api.prompts import chat_prompt
from cast_server.api.protocol import ChatCompletionRequest
from cast_server.api.requests import chat_requests, check_model
from cast_server.api.response_format import check_form
from cast_server.api.responses import ChatCompletion
from cast_server.api.tools.dialect import Dialect
from cast_server.api.tools.reader import CallReader, MessageReader, TextReader

router = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions", response_model=ChatCompletion, responses=content("text/event-stream")
)
async def create_chat_completion(
    body: ChatCompletionRequest,
    http: Request,
    engine: EngineDep,
    texts: TokenTextDep,
    dialect: DialectDep,
) -> Response:
    """Answers a conversation, in words or by calls of the functions that it offers."""
    check_model(body, engine)
    wanted = dialect.form_of(body.offer, body.form)
    await check_form(engine, wanted)
    prompt = await asyncio.to_thread(
        chat_prompt,
        engine.tokenizer,
        body.messages,
        tools=body.offer.tools,
        dialect=dialect if body.has_tools else None,
        variables=body.chat_template_kwargs,
        add_generation_prompt=body.add_generation_prompt and not body.continue_final_message,
        continue_final_message=body.continue_final_message,
    )
    prediction = await asyncio.to_thread(
        prediction_tokens, engine.tokenizer, body.prediction, engine.max_model_len
    )
    changes = dialect.sampling_changes(body.offer, wanted)
    group = chat_requests(engine, body, prompt, changes).expecting(prediction)
    form = ChatFormat(
        Header(group.id, engine.model_name, engine.fingerprint),
        texts,
        with_logprobs=body.logprobs,
        make_reader=_reader(body, dialect),
        num_read=body.prompt_logprobs,
    )
    return await respond(engine, group, form, body, http)


def _reader(body: ChatCompletionRequest, dialect: Dialect) -> Callable[[], MessageReader]:
    return partial(CallReader, dialect.format, body.offer) if body.offer.tools else TextReader
