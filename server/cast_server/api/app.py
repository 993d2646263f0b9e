"""The HTTP application: routes, and what surrounds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from cast_server.api.engine import Engine
from cast_server.api.failures import install_handlers
from cast_server.api.middleware import (
    BodyLimitMiddleware,
    CleanPathMiddleware,
    InternalErrorMiddleware,
    RequestIdMiddleware,
)
from cast_server.api.routes import (
    chat,
    completions,
    embeddings,
    metrics,
    models,
    ops,
    tokenization,
)
from cast_server.api.routes.evaluations import evaluations_router
from cast_server.api.routes.evaluators import evaluators_router
from cast_server.api.token_text import TokenText
from cast_server.config import HttpConfig
from cast_server.evaluators.jobs.service import Evaluations


def create_app(
    engine: Engine, config: HttpConfig, evaluations: Evaluations | None = None
) -> FastAPI:
    """Builds the application that serves `engine`, and `evaluations` if they are not off."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if evaluations is None:
            yield
        else:
            async with evaluations.running():
                yield

    app = FastAPI(title="castserve", redirect_slashes=False, lifespan=lifespan)
    app.state.engine = engine
    app.state.token_text = TokenText(engine.tokenizer)
    install_handlers(app)
    # the one added last is the outermost
    app.add_middleware(BodyLimitMiddleware, max_bytes=config.max_body_bytes)
    app.add_middleware(CleanPathMiddleware)
    app.add_middleware(InternalErrorMiddleware)
    app.add_middleware(RequestIdMiddleware)
    for resource in (chat, completions, embeddings, tokenization, models, metrics, ops):
        app.include_router(resource.router)
    if evaluations is not None:
        app.state.evaluations = evaluations
        app.include_router(evaluators_router(evaluations.evaluators))
        app.include_router(evaluations_router(evaluations.evaluators))
    return app
