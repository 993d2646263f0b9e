"""News of a large evaluation, told again from its beginning, to a client that leaves at once."""

from __future__ import annotations

import logging
import socket
import struct
import time

import evaluations_at_work as work
import pytest

ITEMS = 4000
PAGE = 500  # events that are read at once
PAUSES = (0.0, 0.005, 0.01, 0.02, 0.04)  # until the client leaves, in seconds
RESET = struct.pack("ii", 1, 0)  # closing discards what was not read


@pytest.fixture
def client(tmp_path):
    app = work.make_app(tmp_path / "journal.sqlite", {"m": work.ScriptedSubject()})
    with work.serving(app) as url, work.Client(base_url=url, timeout=60) as client:
        yield client


def test_nobody_is_written_to_who_has_left(client, caplog) -> None:
    job = client.create(params={"repeats": ITEMS})
    client.until(job, lambda now: now["finished_at"] is not None, seconds=60)
    caplog.set_level(logging.WARNING, "asyncio")
    head = f"GET /v1/evaluations/{job['id']}/events HTTP/1.1\r\nHost: x\r\n\r\n"
    for pause in PAUSES:
        with socket.create_connection((client.base_url.host, client.base_url.port)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.sendall(head.encode())
            time.sleep(pause)
        assert client.get("/version").status_code == 200  # all of it has been written by now
    # asyncio warns of each write to a connection that is lost
    assert len(caplog.records) <= PAGE * len(PAUSES)
