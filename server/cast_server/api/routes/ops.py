"""/health, /ping and /version, for load balancers and whoever waits for the server to start"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from cast_server.api.failures import http_error
from cast_server.api.lifecycle import Lifecycle, Phase
from cast_server.api.responses import ErrorBody, Health, Version
from cast_server.release import release

router = APIRouter(tags=["operations"])


@router.get("/health", responses={503: {"model": Health | ErrorBody}})
@router.get("/ping", include_in_schema=False)
async def health(http: Request, response: Response) -> Health:
    """Says whether requests are accepted: 200, or 503 while loading and when about to stop."""
    lifecycle: Lifecycle = http.app.state.lifecycle
    engine = getattr(http.app.state, "engine", None)
    if engine is not None and not engine.is_alive:
        raise http_error(503, "The engine does not run.")
    if lifecycle.phase is not Phase.READY:
        response.status_code = 503
    return Health(status=lifecycle.phase.value)


@router.get("/version")
async def version() -> Version:
    """Which castserve this is."""
    return Version(version=release())
