"""One tiny server with the real evaluators, for whoever only asks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_server import TinyServer, open_up, tiny_server

from cast_server.evaluators.jobs.journal import Journal
from cast_server.evaluators.jobs.limits import ServiceLimits
from cast_server.evaluators.jobs.service import Evaluations
from cast_server.evaluators.registry import EVALUATORS
from cast_server.evaluators.subjects.served import ServedSubject

LIMITS = ServiceLimits(queue_length=3, sync_items=2, sync_tokens=200)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[TinyServer]:
    journal = Journal(tmp_path_factory.mktemp("evaluations") / "journal.sqlite")
    with tiny_server(is_loading=True) as server:
        subjects = {"tiny": ServedSubject(server.engine, {"weights": "random"})}
        open_up(server, evaluations=Evaluations(journal, subjects, EVALUATORS, LIMITS))
        yield server
