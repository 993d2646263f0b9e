"""Every failure that a user can cause or must be told of.

    CastError
    ├── ConfigError              the command line asks for the impossible; start-up stops
    │   ├── ModelNotFoundError   no such model on this machine
    │   └── UnsupportedModelError it loads, but cannot be served exactly; the message says why
    └── RequestError             one request cannot be served; the others go on (HTTP 400)
        ├── ContextLengthError   prompt, or prompt and completion, do not fit (HTTP 400)
        ├── UnknownModelError    the request names a model that is not served (HTTP 404)
        ├── EngineOverloadedError the waiting queue is full (HTTP 503, with Retry-After)
        └── EngineFailureError   our own fault; the request is lost, the server is not (HTTP 500)

A `RequestError` knows its HTTP status and the `type`, `param` and `code` of OpenAI's error object.
"""

from __future__ import annotations


class CastError(Exception):
    """Base of everything raised on purpose."""


class ConfigError(CastError):
    """The configuration cannot be used."""


class ModelNotFoundError(ConfigError):
    """The named model is not on this machine."""


class UnsupportedModelError(ConfigError):
    """The model cannot be served without changing its answers."""


class RequestError(CastError):
    """A request that cannot be served. `param` names the offending field of the request body."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class ContextLengthError(RequestError):
    """The request needs more tokens than the model or the KV cache can hold."""

    code = "context_length_exceeded"


class UnknownModelError(RequestError):
    """The request names a model that is not served here."""

    status = 404
    code = "model_not_found"


class EngineOverloadedError(RequestError):
    """The waiting queue is full."""

    status = 503
    type = "server_error"
    code = "engine_overloaded"


class EngineFailureError(RequestError):
    """The engine failed on this request."""

    status = 500
    type = "server_error"
    code = "internal_error"
