"""/v1/embeddings"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request

from cast_server.api.dependencies import EngineDep
from cast_server.api.embeddings import (
    Embedding,
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
    encoded,
)
from cast_server.api.engine import Engine
from cast_server.api.fields import TokenIds
from cast_server.api.generation import run_while_connected
from cast_server.api.prompts import completion_prompts
from cast_server.api.requests import check_model, check_token_ids, room_for

router = APIRouter(tags=["embeddings"])


@router.post("/v1/embeddings")
async def create_embeddings(
    body: EmbeddingRequest, http: Request, engine: EngineDep
) -> EmbeddingList:
    """The language model's last hidden states, averaged over each text and divided by their length.
    Nobody has trained them to tell meanings apart, as those of an embedding model are."""
    check_model(body, engine)
    texts = await asyncio.to_thread(completion_prompts, engine.tokenizer, body.input, "input")
    for token_ids in texts:
        check_token_ids(engine, token_ids, "input")
        room_for(engine, len(token_ids), 0, "input")
    vectors = await run_while_connected(_embed_all(engine, texts), http.receive)
    count = sum(map(len, texts))
    return EmbeddingList(
        data=[
            Embedding(index=index, embedding=encoded(vector, body.encoding_format))
            for index, vector in enumerate(vectors)
        ],
        model=engine.model_name,
        usage=EmbeddingUsage(prompt_tokens=count, total_tokens=count),
    )


async def _embed_all(engine: Engine, texts: Sequence[TokenIds]) -> list[list[float]]:
    return [await engine.embed(token_ids) for token_ids in texts]
