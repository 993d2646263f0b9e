"""Every failure that a user can cause or must be told of.

    CastError
    ├── ConfigError              the command line asks for the impossible; start-up stops
    │   ├── ModelNotFoundError   no such model on this machine
    │   └── UnsupportedModelError it loads, but cannot be served exactly; the message says why
    └── RequestError             one request cannot be served; the others go on (HTTP 400)
        ├── ContextLengthError   prompt, or prompt and completion, do not fit (HTTP 400)
        ├── UnknownModelError    the request names a model that is not served (HTTP 404)
        ├── UnknownEvaluatorError, UnknownEvaluationError  no such thing here (HTTP 404)
        ├── CapabilityError      the model cannot do what the evaluator needs (HTTP 422)
        ├── ConflictError        not in the evaluation's present state (HTTP 409)
        ├── TooLargeError        more than may be asked for, or for a job only (HTTP 413)
        ├── QueueFullError       too many evaluations wait (HTTP 429, with Retry-After)
        ├── OutOfDiskError       an evaluation cannot be kept (HTTP 507)
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
    """A request that cannot be served. `param` names the offending field of the request body.

    retry_after: seconds after which it may be sent again, if that is all it takes.
    """

    status = 400
    type = "invalid_request_error"
    code: str | None = None
    retry_after: int | None = None

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


class UnknownEvaluatorError(RequestError):
    """There is no evaluator of this name."""

    status = 404
    code = "evaluator_not_found"


class UnknownEvaluationError(RequestError):
    """There is no evaluation of this id, or none any more."""

    status = 404
    code = "evaluation_not_found"


class CapabilityError(RequestError):
    """The model cannot do what the evaluator needs."""

    status = 422
    code = "capability_missing"


class ConflictError(RequestError):
    """What is asked does not go with the state of an evaluation; `code` says why."""

    status = 409


class TooLargeError(RequestError):
    """More is asked than is allowed, or than is answered at once."""

    status = 413
    code = "request_too_large"


class QueueFullError(RequestError):
    """Too many evaluations wait already."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"
    retry_after = 10


class OutOfDiskError(RequestError):
    """An evaluation cannot be kept."""

    status = 507
    type = "server_error"
    code = "out_of_disk"


class EngineOverloadedError(RequestError):
    """The waiting queue is full."""

    status = 503
    type = "server_error"
    code = "engine_overloaded"
    retry_after = 1


class EngineFailureError(RequestError):
    """The engine failed on this request."""

    status = 500
    type = "server_error"
    code = "internal_error"
