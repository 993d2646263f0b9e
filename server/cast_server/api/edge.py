"""What stands between the socket and the routes, outermost last."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from cast_server.api.admission import KeyLimitMiddleware, KeyMiddleware
from cast_server.api.failures import install_handlers
from cast_server.api.keys import ApiKeys
from cast_server.api.lifecycle import Lifecycle, LifecycleMiddleware, Phase
from cast_server.api.middleware import (
    BodyLimitMiddleware,
    CleanPathMiddleware,
    InternalErrorMiddleware,
    RequestIdMiddleware,
)
from cast_server.api.routes import ops
from cast_server.config import HttpConfig
from cast_server.edge_config import origins


@dataclass(frozen=True, slots=True)
class Edge:
    """What all applications of one server share: its keys and its life."""

    keys: ApiKeys = field(default_factory=lambda: ApiKeys(None))
    lifecycle: Lifecycle = field(default_factory=lambda: Lifecycle(Phase.READY))


def surround(app: FastAPI, config: HttpConfig, edge: Edge) -> None:
    """Puts everything around the routes of `app` that is not theirs."""
    app.state.lifecycle = edge.lifecycle
    app.state.sse_ping = config.sse_ping
    install_handlers(app)
    # the one added last is the outermost
    app.add_middleware(
        BodyLimitMiddleware, max_bytes=config.max_body_bytes, seconds=config.client_timeout
    )
    if config.max_requests_per_key is not None:
        app.add_middleware(KeyLimitMiddleware, most=config.max_requests_per_key)
    if edge.keys.are_needed:
        also_open = ("/metrics",) if config.public_metrics else ()
        app.add_middleware(KeyMiddleware, keys=edge.keys, also_open=also_open)
    app.add_middleware(
        LifecycleMiddleware, lifecycle=edge.lifecycle, seconds=config.request_timeout
    )
    app.add_middleware(CleanPathMiddleware)
    app.add_middleware(InternalErrorMiddleware)
    if config.cors_origins:
        _add_cors(app, config)
    app.add_middleware(RequestIdMiddleware)


def loading_app(config: HttpConfig, edge: Edge) -> FastAPI:
    """Answers until there is a model: who is healthy, and everybody else to come back."""
    app = FastAPI(title="castserve", openapi_url=None, redirect_slashes=False)
    surround(app, config, edge)
    app.include_router(ops.router)
    return app


def _add_cors(app: FastAPI, config: HttpConfig) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins(config.cors_origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],  # clients in browsers send many of their own, authorization among them
        allow_credentials=False,  # keys travel in a header, never in cookies
        expose_headers=["x-request-id", "retry-after", "x-should-retry"],
    )
