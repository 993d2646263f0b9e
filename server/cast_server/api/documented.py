"""What the OpenAPI document says of failures and of streams. Every failure has one shape."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from cast_server.api.responses import ErrorBody

Responses = dict[int | str, dict[str, Any]]

_FAILURES: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "The request is wrong. `param` names the field.",
        401: "This server wants an API key, and there is none or a wrong one.",
        404: "There is no such model, evaluator or evaluation.",
        408: "Not sent, or not answered, in the time that it was given.",
        409: "Not in the evaluation's present state. `code` says why.",
        413: "More than may be sent, or than is answered at once.",
        422: "The model cannot do what the evaluator needs.",
        429: "Too many requests of one key are under way, or too many evaluations wait.",
        500: "A failure of the server's own. It is in the log.",
        503: "The model is being loaded, the queue is full, or the server stops.",
        507: "There is no room to keep evaluations.",
    }
)
_ANYWHERE: Final = (400, 401, 408, 413, 500, 503)
_EVENT: Final = {
    "type": "object",
    "properties": {"data": {"type": "string"}},
    "required": ["data"],
}


def failures(*statuses: int) -> Responses:
    """What may go wrong with a route: the statuses given, and those that every route has."""
    return {
        status: {"model": ErrorBody, "description": _FAILURES[status]}
        for status in sorted({*_ANYWHERE, *statuses})
    }


def content(*media_types: str, status: int = 200) -> Responses:
    """Further forms that an answer may have."""
    return {status: {"content": {kind: _described(kind) for kind in media_types}}}


def operation_id(route: APIRoute) -> str:
    """The handler's name, which clients that are generated call their functions by."""
    return route.name


class DocumentedApp(FastAPI):
    """FastAPI says of every route that a field it cannot read is a 422. Here it is a 400."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            _drop_unused(super().openapi())
        assert self.openapi_schema is not None
        return self.openapi_schema


def _described(media_type: str) -> dict[str, Any]:
    is_stream = media_type == "text/event-stream"
    return {"itemSchema": _EVENT} if is_stream else {"schema": {"type": "string"}}


def _drop_unused(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
