"""/v1/status: load, and what speculation goes by, for people and pages that watch the server"""

from __future__ import annotations

import math

from fastapi import APIRouter
from pydantic import BaseModel

from cast_drafters.policy import POLICIES
from cast_server.api.dependencies import EngineDep
from cast_server.api.engine import Engine

router = APIRouter(tags=["operations"])


class PolicyBody(BaseModel):
    """A kind of policy; `default_size` draft tokens unless a request says otherwise, 0: none."""

    name: str
    default_size: int


class CostBody(BaseModel):
    """Seconds of the model's pass by rows, as profiled and as corrected since."""

    is_measured: bool
    keys: int
    rows: tuple[int, ...]
    profile_seconds: tuple[float, ...]
    seconds: tuple[float, ...]


class Status(BaseModel):
    """Load now, and what speculation goes by. What nothing is known of yet is null.

    `tokens_per_second` counts the last ten seconds. `drift`: how many times as long as profiled the
    model's passes take. `step_errors`: quantiles of |predicted - actual| / actual step time.
    """

    model: str
    max_model_len: int
    num_running: int
    num_waiting: int
    max_running: int
    kv_tokens_used: int
    kv_tokens: int
    tokens_per_second: float
    policies: list[PolicyBody]
    default_policy: str
    drafter: str
    sources: tuple[str, ...]
    cost: CostBody
    drift: float
    calibration_error: float | None
    step_errors: dict[str, float]


@router.get("/v1/status")
async def status(engine: EngineDep) -> Status:
    """Says how busy the server is and what its drafting goes by."""
    now, report = engine.status(), engine.report()
    error = report.calibration_error
    return Status(
        model=engine.model_name,
        max_model_len=engine.max_model_len,
        num_running=now.num_running,
        num_waiting=now.num_waiting,
        max_running=now.max_running,
        kv_tokens_used=now.kv_tokens_used,
        kv_tokens=now.kv_tokens,
        tokens_per_second=now.tokens_per_second,
        policies=_policies(engine),
        default_policy=now.default_policy,
        drafter=now.drafter,
        sources=now.sources,
        cost=CostBody.model_validate(now.cost, from_attributes=True),
        drift=report.drift,
        calibration_error=None if math.isnan(error) else error,
        step_errors=report.step_errors,
    )


def _policies(engine: Engine) -> list[PolicyBody]:
    sizes = {name: kind.default_size for name, kind in POLICIES.items()}
    return [PolicyBody(name=name, default_size=sizes.get(name, 0)) for name in engine.policies]
