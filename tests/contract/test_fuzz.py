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

HERE = Path(__file__).parent
SECONDS = 20  # for one answer, on a machine with other work
# The document cannot say all that makes a request wrong: fields that exclude each other, ids of a
# vocabulary, a text that is too long. That such requests are refused is right.
LEFT_OUT = "positive_data_acceptance"
# A full queue is a 503, and right, as is a 408 on a machine that is busy.
CONFIG = """\
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", 503]
[checks.negative_data_rejection]
expected-statuses = [400, 404, 405, 408, 409, 413, 422, 429, 503]
"""
# Evaluators beside erank are asked in the same way, and these bodies have thousands of variants.
QUICK = """
[[operations]]
include-path-regex = "^/v1/evaluators/(?!erank/)[^{/]+/run$"
enabled = false
[[operations]]
include-name = "POST /v1/evaluations"
phases.coverage.enabled = false
"""
ANSWERED = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /tokenize",
    "POST /detokenize",
    "POST /v1/evaluators/erank/run",
    "POST /v1/evaluations",
    "GET /v1/evaluations/{evaluation_id}/events",
    "GET /v1/evaluations/{evaluation_id}/items",
    "DELETE /v1/evaluations/{evaluation_id}",
)


@pytest.fixture
def fuzz(server, tmp_path):
    """Runs it, and returns how often each operation gave each status."""

    def run(
        num_examples: int, seed: int, patience: float, less: str = ""
    ) -> dict[str, Counter[str]]:
        config, report = tmp_path / "schemathesis.toml", tmp_path / "report.ndjson"
        config.write_text(CONFIG + less)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run"),
                *(f"{server.url}/openapi.json", "--phases", "coverage,fuzzing,stateful"),
                *("--exclude-checks", LEFT_OUT, "--request-timeout", str(SECONDS)),
                # news of an evaluation would go on until its end
                *("--header", f"x-request-timeout: {patience}"),
                *("--max-examples", str(num_examples), "--seed", str(seed), "--no-color"),
                *("--continue-on-failure", "--generation-database", "none"),
                *("--report", "ndjson", "--report-ndjson-path", report),
            ],
            env=os.environ | {"SCHEMATHESIS_HOOKS": "plausible", "PYTHONPATH": str(HERE)},
            check=False,
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
            for key, asked in recorder.get("interactions", {}).items():
                case = recorder["cases"][key]["value"]
                status = (asked["response"] or {}).get("status_code", "none")
                found.setdefault(f"{case['method']} {case['path']}", Counter())[str(status)] += 1
    return found


def check(found: dict[str, Counter[str]], at_least: int) -> None:
    """That it was no empty exercise: enough was asked, and enough of it was answered."""
    assert sum(map(Counter.total, found.values())) >= at_least
    for operation in ANSWERED:
        method_and_path = (name for name in found if name.startswith(operation))
        codes = sum((found[name] for name in method_and_path), Counter())
        assert sum(codes[code] for code in ("200", "202")) > 1, (operation, codes)


def test_whatever_is_asked_the_answer_is_one_that_is_documented(fuzz, server) -> None:
    check(fuzz(6, 1, 0.5, QUICK), at_least=1000)
    server.until(lambda: server.is_idle, 30)
    assert server.get("/health").json() == {"status": "ok"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_whatever_else_is_asked_too(fuzz, server, seed) -> None:
    check(fuzz(100, seed, 5), at_least=5000)
    server.until(lambda: server.is_idle, 60)
    assert server.get("/health").json() == {"status": "ok"}
