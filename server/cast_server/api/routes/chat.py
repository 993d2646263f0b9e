"""/v1/chat/completions"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from cast_server.api.answering import respond
from cast_server.api.dependencies import EngineDep, TokenTextDep
from cast_server.api.formats import ChatFormat, Header
from cast_server.api.prompts import chat_prompt
from cast_server.api.protocol import ChatCompletionRequest
from cast_server.api.requests import chat_requests, check_model
from cast_server.api.response_format import check_form
from cast_server.api.responses import ChatCompletion

router = APIRouter(tags=["chat"])


@router.post("/v1/chat/completions", response_model=ChatCompletion)
async def create_chat_completion(
    body: ChatCompletionRequest, http: Request, engine: EngineDep, texts: TokenTextDep
) -> Response:
    """Answers a conversation."""
    check_model(body, engine)
    await check_form(engine, body.form)
    prompt = await asyncio.to_thread(chat_prompt, engine.tokenizer, body.messages)
    group = chat_requests(engine, body, prompt)
    header = Header(group.id, engine.model_name)
    form = ChatFormat(header, texts, with_logprobs=body.logprobs)
    return await respond(engine, group, form, body, http)
