"""The real `cast-serve` in a process of its own, as a user would start it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODEL = "smollm2-135m-instruct"
_START_SECONDS = 240  # the very first start unpacks the model
_STOP_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A server that is ready. What it prints goes to `log`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def terminate(self) -> int:
        """Sends SIGTERM and returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)


@contextmanager
def serving(log: Path, *flags: str) -> Iterator[Server]:
    """Starts a server in float32, where speculation must leave every token equal."""
    command = [sys.executable, "-m", "cast_server", "--port", "0", "--dtype", "float32"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *flags], stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Server(process, _wait_until_ready(process, log), log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        printed = log.read_text()
        if ready := re.search(r"^Ready on (http://\S+)", printed, re.MULTILINE):
            return ready[1]
        assert process.poll() is None, f"the server ended while starting:\n{printed}"
        time.sleep(0.1)
    raise AssertionError(f"the server is not ready after {_START_SECONDS} s:\n{log.read_text()}")
