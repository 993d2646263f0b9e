"""What docs/api.md tells its readers to type works as it stands there, in its order."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
CONTRACT = (ROOT / "tests" / "e2e" / "test_contract.py").read_text()
# each answer in lines of its own, and a refusal is a failure
CURL = 'curl() { command curl --fail-with-body -sS "$@" && echo; }\n'


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_every_command_is_answered(server) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    script = "".join(blocks).replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", CURL + script],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert done.stdout.count("data: [DONE]") == 1
    assert '"deleted":true' in done.stdout


def test_every_promise_has_its_test() -> None:
    told = re.findall(r"`(\d\d_\w+)`", PAGE)
    assert len({name[:2] for name in told}) == 25
    assert all(f"def test_{name}(" in CONTRACT for name in told)


def test_every_endpoint_is_on_the_page(server) -> None:

    paths = httpx2.get(f"{server.url}/openapi.json", timeout=20).json()["paths"]
    page = PAGE.replace("smollm2-135m-instruct", "{model_id}").replace("$ID", "{evaluation_id}")
    page = page.replace("/v1/evaluators/erank", "/v1/evaluators/{evaluator_id}")
    missing = [path for path in paths if not re.search(rf"\$URL{re.escape(path)}\s", page)]
    runs = [path for path in missing if re.fullmatch(r"/v1/evaluators/\w+/run", path)]
    assert missing == runs
