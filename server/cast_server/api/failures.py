"""Failures as OpenAI's error object, whatever their origin."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from cast_server.api.generation import ClientGoneError
from cast_server.api.responses import ErrorBody, ErrorDetail
from cast_server.errors import EngineFailureError, RequestError
from cast_server.observing.exchange import exchange_of

_logger = logging.getLogger(__name__)

_MAX_MESSAGE_CHARS = 1000
_MAX_VALUE_CHARS = 80
_METHODS: Final = ("DELETE", "GET", "HEAD", "POST")
_CODES: Final = {404: "unknown_url", 405: "method_not_allowed", 413: "request_too_large"}


def install_handlers(app: FastAPI) -> None:
    """Makes `app` answer every failure in OpenAI's shape."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientGoneError, _on_client_gone)


def error_body(error: RequestError) -> bytes:
    """The JSON of an error, which always is valid UTF-8, even if it quotes what is not."""
    message = error.message
    if len(message) > _MAX_MESSAGE_CHARS:
        message = message[:_MAX_MESSAGE_CHARS] + "…"
    detail = ErrorDetail(
        message=_encodable(message),
        type=error.type,
        param=None if error.param is None else _encodable(error.param),
        code=error.code,
    )
    return ErrorBody(error=detail).model_dump_json().encode()


def error_event(error: RequestError) -> bytes:
    """A failure as the last event but [DONE] of a stream."""
    return b"data: " + error_body(error) + b"\n\ndata: [DONE]\n\n"


def error_response(error: RequestError, headers: Mapping[str, str] | None = None) -> Response:
    """The whole answer to a request that failed."""
    all_headers = dict(headers or {})
    if error.retry_after is not None:
        all_headers["Retry-After"] = str(error.retry_after)
    if error.is_final:
        all_headers["x-should-retry"] = "false"
    return _ErrorResponse(error, all_headers)


class _ErrorResponse(Response):
    """Tells those who observe the request what went wrong, before it tells the client."""

    def __init__(self, error: RequestError, headers: Mapping[str, str]) -> None:
        super().__init__(error_body(error), error.status, headers, "application/json")
        self._code = error.code or error.type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        if exchange is not None:
            exchange.error = self._code
        await super().__call__(scope, receive, send)


def as_request_error(exception: Exception) -> RequestError:
    """What a client may know of `exception`; anything unforeseen goes to the log and not to it."""
    if isinstance(exception, RequestError):
        return exception
    _logger.error("Unforeseen failure in a request", exc_info=exception)
    return EngineFailureError("The server had an error while processing your request. Sorry.")


def http_error(status: int, message: str) -> RequestError:
    """A failure of the request as HTTP, before anybody looked at its fields."""
    error = RequestError(message, code=_CODES.get(status))
    error.status = status
    return error


async def _on_request_error(_: Request, exception: Exception) -> Response:
    return error_response(as_request_error(exception))


async def _on_validation_error(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, RequestValidationError)
    return error_response(_validation_error(exception.errors()[0], exception.body))


async def _on_http_exception(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)
    status = exception.status_code
    message = str(exception.detail)
    if status in (404, 405):
        reason = "is no URL of this server" if status == 404 else "is not allowed"
        message = f"{request.method} {request.url.path} {reason}."
    elif status == 400:
        message = "The body could not be read: it must be JSON in UTF-8."
    headers = {"Allow": _allowed(request)} if status == 405 else exception.headers
    return error_response(http_error(status, message), headers)


def _allowed(request: Request) -> str:
    """All methods that the path takes; the exception knows those of one route only."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.routes
    taken = (
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )
    return ", ".join(taken)


async def _on_client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody will see it; access logs know this number


def _validation_error(fault: Mapping[str, Any], body: object) -> RequestError:
    if fault["type"] == "json_invalid":
        position, reason = fault["loc"][-1], fault["ctx"]["error"]
        return RequestError(f"The body is not valid JSON: {reason} at character {position}.")
    if isinstance(body, bytes):
        return RequestError("The body must be sent with the header Content-Type: application/json.")
    param = _param(fault["loc"])
    if param is None:
        return RequestError("The body must be a JSON object.")
    if fault["type"] == "missing":
        return RequestError(f"{param} is required.", param)
    if fault["type"] == "extra_forbidden":
        return RequestError(f"{param} is not a known field.", param)
    expected = fault["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return RequestError(f"{param} {expected}, got {_shown(fault['input'])}.", param)


def _param(loc: Sequence[str | int]) -> str | None:
    """The path of a field, as in `messages[0].role`; None for the body as a whole."""
    path = ""
    for step in loc[1:]:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".") or None


def _shown(value: object) -> str:
    if isinstance(value, dict | list):  # never spell out what may be megabytes
        return "an object" if isinstance(value, dict) else "an array"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a very large number"
    if isinstance(value, str) and len(value) > _MAX_VALUE_CHARS:
        value = value[:_MAX_VALUE_CHARS] + "…"
    return json.dumps(value, ensure_ascii=False)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
