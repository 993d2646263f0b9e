from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from evaluations_at_work import QUIET, Client, ScriptedSubject, make_app, serving

from cast_server.evaluators.jobs.limits import ServiceLimits


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
