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
        ├── MissingKeyError      no API key, or a wrong one (HTTP 401)
        ├── RateLimitError       the key has too many requests under way (HTTP 429)
        ├── DeadlineError        not finished in the time that it was given (HTTP 408)
        ├── SlowClientError      the client does not send or read any more (HTTP 408)
        ├── NotReadyError        the model is loading, or the server stops (HTTP 503)
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
    is_final: the same request would fail again, though its status tells clients to retry.
    """

    status = 400
    type = "invalid_request_error"
    code: str | None = None
    retry_after: int | None = None
    is_final = False

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


class MissingKeyError(RequestError):
    """The request brings no API key, or a wrong one, which the message does not repeat."""

    status = 401
    code = "invalid_api_key"

    def __init__(self, key: str) -> None:
        what = "The API key is not one of this server's" if key else "No API key was given"
        super().__init__(f"{what}: send one in the header Authorization: Bearer YOUR_KEY.")


class RateLimitError(RequestError):
    """The key has as many requests under way as one may have."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after = 1

    def __init__(self, most: int) -> None:
        super().__init__(f"This API key has {most} requests under way, which is its limit.")


class DeadlineError(RequestError):
    """The request was not finished in the time that it was given."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"
    is_final = True

    def __init__(self) -> None:
        super().__init__(
            "The request was not finished in time: ask for fewer tokens, or for more seconds with "
            "x-request-timeout or timeout, if the server allows more."
        )


class SlowClientError(RequestError):
    """The client does not send the rest of its request, or does not take its answer."""

    status = 408
    type = "timeout_error"
    code = "client_too_slow"
    is_final = True


class NotReadyError(RequestError):
    """The model is being loaded, or the server is about to stop."""

    status = 503
    type = "server_error"
    retry_after = 5


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
