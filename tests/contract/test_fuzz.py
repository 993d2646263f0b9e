"""schemathesis reads the server's OpenAPI document and asks whatever it, and its contrary, allow.

Whatever comes: no failure of the server's own, no status, content type or body that the document
does not tell of, and an answer within seconds. Statefully too: evaluations are made, asked after,
cancelled and deleted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("schemathesis")

HERE = Path(__file__).parent
SECONDS = 20  # for one answer, on a machine with other work
# The document cannot say all that makes a request wrong: fields that exclude each other, ids of a
# vocabulary, a text that is too long. That such requests are refused is right.
LEFT_OUT = "positive_data_acceptance"


@pytest.fixture
def fuzz(server, tmp_path):
    """Runs it, and returns how often each operation gave each status."""

    def run(num_examples: int, seed: int) -> dict[str, Counter[str]]:
        config, report = tmp_path / "schemathesis.toml", tmp_path / "report.ndjson"
        # a full queue is a 503, and right
        config.write_text('[checks.not_a_server_error]\nexpected-statuses = ["2xx", "4xx", 503]\n')
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run"),
                *(f"{server.url}/openapi.json", "--phases", "coverage,fuzzing,stateful"),
                *("--exclude-checks", LEFT_OUT, "--request-timeout", str(SECONDS)),
                *("--max-examples", str(num_examples), "--seed", str(seed), "--no-color"),
                *("--continue-on-failure", "--generation-database", "none", "--workers", "2"),
                *("--report", "ndjson", "--report-ndjson-path", report),
            ],
            env=os.environ | {"SCHEMATHESIS_HOOKS": "plausible", "PYTHONPATH": str(HERE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout
        return statuses(report)

    return run


def statuses(report: Path) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for line in report.read_text().splitlines():
        [(kind, event)] = json.loads(line).items()
        if kind == "ScenarioFinished":
            recorder = event["recorder"]
            for key, asked in recorder["interactions"].items():
                case = recorder["cases"][key]["value"]
                status = (asked["response"] or {}).get("status_code", "none")
                found.setdefault(f"{case['method']} {case['path']}", Counter())[str(status)] += 1
    return found


def test_hundreds_of_requests_leave_the_contract_whole(fuzz, server) -> None:
    found = fuzz(5, seed=1)
    for operation, counts in found.items():
        print(operation, dict(counts))
    server.until(lambda: server.is_idle, 30)
    assert server.get("/health").status_code == 200
