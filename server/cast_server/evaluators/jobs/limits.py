"""How much one evaluation, and all of them together, may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_JOB_SECONDS = 86_400.0
MAX_JOB_TOKENS = 5_000_000


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What the server allows.

    sync_*: evaluations that are answered at once. concurrency: units of a phase side by side.
    keep_*: finished evaluations beyond either are deleted, the oldest first.
    """

    sync_items: int = 8
    sync_tokens: int = 4096
    sync_seconds: float = 10.0
    max_items: int = 20_000
    queue_length: int = 16
    concurrency: int = 8
    keep_seconds: float = 7 * 86_400.0
    keep_bytes: int = 2**30


class JobLimits(BaseModel):
    """What one evaluation may take. Seconds count from its creation, waiting included; units that
    run when the tokens are used up still end, so a few answers more than `max_tokens` may be
    written. A failed unit is recorded, or makes the whole evaluation fail."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_seconds: Annotated[float, Field(strict=True, gt=0, le=MAX_JOB_SECONDS)] = 3600.0
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=MAX_JOB_TOKENS)] = MAX_JOB_TOKENS
    on_item_error: Literal["record", "fail"] = "record"
