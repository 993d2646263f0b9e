"""/tokenize, /detokenize, /tokenizer_info"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from cast_server.api.dependencies import EngineDep
from cast_server.api.engine import Engine
from cast_server.api.fields import TokenIds
from cast_server.api.prompts import chat_prompt, encode
from cast_server.api.requests import check_model, check_token_ids
from cast_server.api.tokenization import (
    AddedToken,
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
)

router = APIRouter(tags=["tokenization"])


@router.post("/tokenize")
async def tokenize(body: TokenizeRequest, engine: EngineDep) -> Tokenized:
    """Cuts a text or a conversation into the model's tokens."""
    check_model(body, engine)
    tokens = await asyncio.to_thread(_tokens, body, engine)
    strings = engine.tokenizer.convert_ids_to_tokens(tokens) if body.return_token_strs else None
    return Tokenized(
        count=len(tokens),
        max_model_len=engine.max_model_len,
        tokens=list(tokens),
        token_strs=strings,
    )


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, engine: EngineDep) -> Detokenized:
    """Puts tokens together again."""
    check_model(body, engine)
    check_token_ids(engine, body.tokens, "tokens")
    text = await asyncio.to_thread(
        engine.tokenizer.decode, list(body.tokens), clean_up_tokenization_spaces=False
    )
    return Detokenized(prompt=text)


@router.get("/tokenizer_info")
async def tokenizer_info(engine: EngineDep) -> TokenizerInfo:
    """Describes the tokenizer, for clients that count tokens themselves."""
    tokenizer = engine.tokenizer
    added = tokenizer.added_tokens_decoder.items()
    return TokenizerInfo(
        tokenizer_class=type(tokenizer).__name__,
        vocab_size=len(tokenizer),
        model_max_length=engine.max_model_len,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        chat_template=tokenizer.chat_template,
        added_tokens_decoder={
            str(token_id): AddedToken(content=token.content, special=token.special)
            for token_id, token in added
        },
    )


def _tokens(body: TokenizeRequest, engine: Engine) -> TokenIds:
    wanted = body.add_special_tokens
    if body.messages is not None:
        return chat_prompt(
            engine.tokenizer,
            body.messages,
            add_generation_prompt=body.add_generation_prompt,
            add_special_tokens=bool(wanted),
        )
    add = True if wanted is None else wanted
    return encode(engine.tokenizer, body.prompt or "", "prompt", add_special_tokens=add)
