"""/health, for load balancers and whoever waits for the server to start"""

from __future__ import annotations

from fastapi import APIRouter

from cast_server.api.dependencies import EngineDep
from cast_server.api.failures import http_error
from cast_server.api.responses import Health

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health(engine: EngineDep) -> Health:
    """Says whether requests are being worked on."""
    if not engine.is_alive:
        raise http_error(503, "The engine does not run.")
    return Health()
