"""When things happened to a request. All times are `time.monotonic()` seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timings:
    """None for what has not happened. `queued` is the request's arrival, `scheduled` the beginning
    of the first step that computed some of it."""

    queued: float
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    finished: float | None = None

    @property
    def queue_seconds(self) -> float | None:
        return _between(self.queued, self.scheduled)

    @property
    def prefill_seconds(self) -> float | None:
        return _between(self.scheduled, self.first_token)

    @property
    def decode_seconds(self) -> float | None:
        """From the first token to the last."""
        return _between(self.first_token, self.last_token)

    @property
    def inference_seconds(self) -> float | None:
        return _between(self.scheduled, self.last_token)

    @property
    def first_token_seconds(self) -> float | None:
        return _between(self.queued, self.first_token)

    @property
    def total_seconds(self) -> float | None:
        return _between(self.queued, self.finished)


@dataclass(slots=True)
class Stopwatch:
    """The same of a request on its way."""

    queued: float
    scheduled: float | None = None
    first_token: float | None = None
    last_token: float | None = None

    def tick(self, now: float) -> float | None:
        """Tokens have come. Returns the seconds since the last ones; None: these are the first."""
        before = self.last_token
        self.last_token = now
        if before is None:
            self.first_token = now
            return None
        return now - before

    def stop(self, now: float) -> Timings:
        return Timings(self.queued, self.scheduled, self.first_token, self.last_token, now)


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else end - begin
