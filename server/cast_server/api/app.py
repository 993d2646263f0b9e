"""The HTTP application: routes, and what surrounds them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from cast_server.api.documented import DocumentedApp, failures, operation_id
from cast_server.api.edge import Edge, surround
from cast_server.api.engine import Engine
from cast_server.api.routes import (
    chat,
    completions,
    embeddings,
    metrics,
    models,
    ops,
    page,
    status,
    tokenization,
)
from cast_server.api.routes.evaluations import evaluations_router
from cast_server.api.routes.evaluators import evaluators_router
from cast_server.api.token_text import TokenText
from cast_server.api.tools.dialect import Dialect
from cast_server.config import HttpConfig
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.observing.middleware import ObservingMiddleware, RouteMiddleware
from cast_server.observing.observer import Observer
from cast_server.release import release


def create_app(
    engine: Engine,
    config: HttpConfig,
    evaluations: Evaluations | None = None,
    edge: Edge | None = None,
    observer: Observer | None = None,
) -> FastAPI:
    """Builds the application that serves `engine`, and `evaluations` if they are not off.

    Without an `edge` of somebody who loads and stops it, it is ready at once and for everybody.
    """
    edge = edge or Edge()
    if observer is None:
        counts = None if evaluations is None else evaluations.unfinished
        observer = Observer(engine, config, counts)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(observer.running())
            if evaluations is not None:
                await stack.enter_async_context(evaluations.running())
            yield

    app = DocumentedApp(
        title="castserve",
        version=release(),
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=operation_id,
    )
    app.state.engine = engine
    app.state.observer = observer
    app.state.token_text = TokenText(engine.tokenizer)
    app.state.dialect = Dialect(engine.tokenizer, config.tool_parser)
    # the one added last is the outermost
    app.add_middleware(RouteMiddleware)
    surround(app, config, edge)
    app.add_middleware(ObservingMiddleware, ended=observer.ended)
    for resource in (chat, completions, embeddings, tokenization, models):
        app.include_router(resource.router, responses=failures(404, 429))
    for operation in (page, status, metrics, ops):
        app.include_router(operation.router, responses=failures())
    if evaluations is not None:
        app.state.evaluations = evaluations
        edge.lifecycle.on_drain(evaluations.changes.tell)
        for router in (evaluators_router, evaluations_router):
            app.include_router(
                router(evaluations.evaluators), responses=failures(404, 409, 422, 429, 507)
            )
    return app
