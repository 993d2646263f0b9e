"""/v1/completions"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from cast_server.api.answering import respond
from cast_server.api.dependencies import EngineDep, TokenTextDep
from cast_server.api.documented import content
from cast_server.api.echo import Echo, prompt_pieces
from cast_server.api.engine import Engine
from cast_server.api.fields import TokenIds
from cast_server.api.formats import CompletionFormat, Header
from cast_server.api.prediction import prediction_tokens
from cast_server.api.prompts import completion_prompts
from cast_server.api.protocol import CompletionRequest
from cast_server.api.requests import check_model, completion_requests
from cast_server.api.response_format import check_form
from cast_server.api.responses import Completion
from cast_server.api.token_text import TokenText

router = APIRouter(tags=["completions"])


@router.post("/v1/completions", response_model=Completion, responses=content("text/event-stream"))
async def create_completion(
    body: CompletionRequest, http: Request, engine: EngineDep, texts: TokenTextDep
) -> Response:
    """Continues one text or many."""
    check_model(body, engine)
    await check_form(engine, body.form)
    prompts = await asyncio.to_thread(completion_prompts, engine.tokenizer, body.prompt)
    prediction = await asyncio.to_thread(
        prediction_tokens, engine.tokenizer, body.prediction, engine.max_model_len
    )
    group = completion_requests(engine, body, prompts).expecting(prediction)
    header = Header(group.id, engine.model_name, engine.fingerprint)
    form = CompletionFormat(
        header,
        texts,
        with_logprobs=body.logprobs is not None,
        num_read=body.prompt_logprobs,
        echoes=await _echoes(engine, texts, body, prompts) if body.echo else (),
    )
    return await respond(engine, group, form, body, http)


async def _echoes(
    engine: Engine, texts: TokenText, body: CompletionRequest, prompts: Sequence[TokenIds]
) -> list[Echo]:
    """One for each choice."""
    echoes = []
    for prompt, token_ids in zip(body.prompt, prompts, strict=True):
        pieces = await asyncio.to_thread(prompt_pieces, engine.tokenizer, texts, prompt, token_ids)
        echoes += [Echo(pieces, body.logprobs) for _ in range(body.n)]
    return echoes
