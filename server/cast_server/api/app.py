"""The HTTP application: routes, and what surrounds them."""

from __future__ import annotations

from fastapi import FastAPI

from cast_server.api.engine import Engine
from cast_server.api.failures import install_handlers
from cast_server.api.middleware import (
    BodyLimitMiddleware,
    CleanPathMiddleware,
    InternalErrorMiddleware,
    RequestIdMiddleware,
)
from cast_server.api.routes import chat, completions, metrics, models, ops
from cast_server.api.token_text import TokenText
from cast_server.config import HttpConfig


def create_app(engine: Engine, config: HttpConfig) -> FastAPI:
    """Builds the application that serves `engine`."""
    app = FastAPI(title="castserve", redirect_slashes=False)
    app.state.engine = engine
    app.state.token_text = TokenText(engine.tokenizer)
    install_handlers(app)
    # the one added last is the outermost
    app.add_middleware(BodyLimitMiddleware, max_bytes=config.max_body_bytes)
    app.add_middleware(CleanPathMiddleware)
    app.add_middleware(InternalErrorMiddleware)
    app.add_middleware(RequestIdMiddleware)
    for resource in (chat, completions, models, metrics, ops):
        app.include_router(resource.router)
    return app
