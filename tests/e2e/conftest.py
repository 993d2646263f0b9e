"""One server for the whole session, and the official client for it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from e2e.serving import Server, serving

MAX_NUM_SEQS = 4


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    log = directory / "log.txt"
    flags = ("--kv-cache-tokens", "4096", "--max-num-seqs", str(MAX_NUM_SEQS))
    # one directory belongs to one server at a time
    flags += ("--evaluations-dir", str(directory / "evaluations"))
    with serving(log, *flags) as server:
        yield server
        assert server.terminate() == 0
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def client(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
        yield client
