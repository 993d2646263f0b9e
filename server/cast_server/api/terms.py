"""Who asks, and how long they will wait: what the engine is told of it."""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request

from cast_server.api.patience import Patience
from cast_server.api.requests import RequestGroup


def on_terms(group: RequestGroup, seconds: float | None, http: Request) -> RequestGroup:
    """The same requests with owner and deadline. `seconds`: what the body allows, from arrival."""
    patience: Patience = http.state.patience
    if seconds is not None:
        patience.shorten(seconds)
    owner = getattr(http.state, "owner", "")
    requests = (
        replace(request, owner=owner, deadline=patience.deadline) for request in group.requests
    )
    return replace(group, requests=tuple(requests))
