"""/v1/completions"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response

from cast_server.api.answering import respond
from cast_server.api.dependencies import EngineDep, TokenTextDep
from cast_server.api.formats import CompletionFormat, Header
from cast_server.api.prompts import completion_prompts
from cast_server.api.protocol import CompletionRequest
from cast_server.api.requests import check_model, completion_requests
from cast_server.api.response_format import check_form
from cast_server.api.responses import Completion

router = APIRouter(tags=["completions"])


@router.post("/v1/completions", response_model=Completion)
async def create_completion(
    body: CompletionRequest, http: Request, engine: EngineDep, texts: TokenTextDep
) -> Response:
    """Continues one text or many."""
    check_model(body, engine)
    await check_form(engine, body.form)
    prompts = await asyncio.to_thread(completion_prompts, engine.tokenizer, body.prompt)
    group = completion_requests(engine, body, prompts)
    header = Header(group.id, engine.model_name)
    form = CompletionFormat(header, texts, with_logprobs=body.logprobs is not None)
    return await respond(engine, group, form, body, http)
