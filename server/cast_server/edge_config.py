"""Settings of the edge: who may ask, for how long, and how much at a time."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

_ORIGIN = re.compile(r"https?://[^/\s,*]+")


class EdgeConfig(BaseModel):
    """Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    api_keys_file: str | None = Field(
        None,
        description="file of the keys that clients must send, one name:sha256 a line, read again "
        "whenever it changes; --new-api-key makes the lines. CASTSERVE_API_KEY holds one more key. "
        "Without either, everybody may ask",
    )
    public_metrics: bool = Field(
        False, description="answer /metrics without a key, where others need one"
    )
    max_requests_per_key: int | None = Field(
        None, ge=1, description="requests that one key may have under way before a 429"
    )
    cors_origins: str = Field(
        "",
        description="origins whose web pages may ask, separated by commas, or * for all; default: "
        "none",
    )
    request_timeout: float | None = Field(
        None,
        gt=0,
        description="seconds that a request may take; a client may ask for less with the header "
        "x-request-timeout or the field timeout",
    )
    client_timeout: float = Field(
        60.0,
        gt=0,
        description="seconds that a client may take to send a request's head, to send its body, or "
        "to take nothing of an answer that waits for it, before its connection is closed",
    )
    sse_ping: float = Field(
        15.0,
        ge=0,
        description="seconds of silence after which a stream carries a comment, so that proxies "
        "keep it open; 0 for never",
    )
    max_connections: int | None = Field(
        None,
        ge=1,
        description="open connections; of more, the one that has been idle longest is closed. "
        "Default: what the limit of open files leaves, at most 8192",
    )
    drain_timeout: float = Field(
        30.0,
        ge=0,
        description="seconds that accepted requests get to end after SIGTERM, before they are cut "
        "off",
    )

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: str) -> str:
        wrong = [one for one in origins(value) if one != "*" and not _ORIGIN.fullmatch(one)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no origin; one looks like https://chat.example.org")
        return value


def origins(value: str) -> list[str]:
    """The origins in a list with commas."""
    return [one.strip() for one in value.split(",") if one.strip()]
