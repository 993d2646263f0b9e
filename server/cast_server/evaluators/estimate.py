"""A mean over texts, as results show it."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, Field

from cast_server.evaluators.measures.intervals import mean


class Estimate(BaseModel):
    """Mean over texts, with a bootstrap interval."""

    count: int = Field(ge=0, description="Texts that have the number.")
    mean: float | None = Field(description="null if there is no such text.")
    sd: float | None = Field(
        ge=0, description="Standard deviation over texts, with count - 1; null for fewer than two."
    )
    low: float | None = Field(description="Low end of the 95 % interval; null as sd.")
    high: float | None = Field(description="Its high end.")

    @classmethod
    def of(cls, numbers: Iterable[float | None], seed: int = 0) -> Estimate:
        """Of those that are not None."""
        found = [number for number in numbers if number is not None]
        if not found:
            return cls(count=0, mean=None, sd=None, low=None, high=None)
        result = mean(found, seed)
        low, high = (
            (None, None) if result.interval is None else (result.interval.low, result.interval.high)
        )
        return cls(count=result.count, mean=result.value, sd=result.sd, low=low, high=high)
