"""/metrics, for Prometheus"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from cast_server.api.dependencies import ObserverDep
from cast_server.api.documented import content

router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    response_class=Response,
    responses=content("text/plain", "application/openmetrics-text"),
)
async def metrics(http: Request, observer: ObserverDep) -> Response:
    """Requests, tokens and times under vLLM's names; what is castserve's own besides."""
    encode, content_type = choose_encoder(http.headers.get("accept", ""))
    return Response(encode(observer.registry), media_type=content_type)
