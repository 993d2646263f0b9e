from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from evaluations_at_work import QUIET, ScriptedSubject, make_app, serving

from cast_server.evaluators.jobs.limits import ServiceLimits


class Client(httpx2.Client):
    """Asks for evaluations, and waits for them."""

    def create(self, **fields: Any) -> dict[str, Any]:
        answer = self.post("/v1/evaluations", json={"evaluator": "echo", "model": "m", **fields})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/v1/evaluations/{answer.json()['id']}"
        return answer.json()

    def job(self, job: dict[str, Any]) -> dict[str, Any]:
        return self.get(f"/v1/evaluations/{job['id']}").json()

    def cancel(self, job: dict[str, Any]) -> dict[str, Any]:
        answer = self.post(f"/v1/evaluations/{job['id']}/cancel")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def items(self, job: dict[str, Any], **query: Any) -> dict[str, Any]:
        return self.get(f"/v1/evaluations/{job['id']}/items", params=query).json()

    def until(self, job: dict[str, Any], condition: Callable[[dict[str, Any]], bool]) -> Any:
        deadline = time.monotonic() + 10
        while not condition(now := self.job(job)):
            assert time.monotonic() < deadline, now
            time.sleep(0.005)
        return now

    def end(self, job: dict[str, Any]) -> dict[str, Any]:
        return self.until(job, lambda now: now["finished_at"] is not None)


@pytest.fixture
def subject() -> ScriptedSubject:
    return ScriptedSubject()


@pytest.fixture
def baseline() -> ScriptedSubject:
    return ScriptedSubject("base", "sha256:2", says="!")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "evaluations" / "m.sqlite"


@pytest.fixture
def serve(journal: Path, subject: ScriptedSubject, baseline: ScriptedSubject) -> Any:
    """Serves with other limits, subjects or clocks than usual."""

    @contextmanager
    def start(limits: ServiceLimits = QUIET, **others: Any) -> Iterator[Client]:
        subjects = others.pop("subjects", {"m": subject, "base": baseline})
        with (
            serving(make_app(journal, subjects, limits, **others)) as url,
            Client(base_url=url, timeout=10) as client,
        ):
            yield client

    return start


@pytest.fixture
def client(serve: Any) -> Iterator[Client]:
    with serve() as client:
        yield client
