"""The Dockerfile, on machines without a container engine: linted, and its steps done by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("/opt/castserve", "/src", "/var/cache/castserve")
START_SECONDS = 240


def instructions() -> list[tuple[str, str]]:
    """Of the whole file, in order: name and the rest, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    joined = lines.replace("\\\n", " ")
    return [
        (name, rest) for name, _, rest in (x.partition(" ") for x in joined.splitlines()) if name
    ]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for name, rest in instructions():
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            found[stage] = list(found.get(base, []))
        elif found:
            found[stage].append((name, rest))
    return found


def test_lint() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "Dockerfile"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_images_run_as_nobody_special_and_tell_their_health(name) -> None:
    stage = dict(stages()[name])
    assert stage["USER"] == "1000"
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert "/health" in stage["HEALTHCHECK"]
    assert json.loads(stage["ENTRYPOINT"])[0] == "cast-serve"
    assert list(stages())[-1] == "cpu"  # what is built if no target is named


def test_what_is_copied_is_all_that_is_needed() -> None:
    kept = {x[1:] for x in (ROOT / ".dockerignore").read_text().splitlines() if x[:1] == "!"}
    assert all((ROOT / name).exists() for name in kept)
    packages = re.search(r"^where = (.*)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    assert set(json.loads(packages[1])) | {"pyproject.toml", "README.md", "LICENSE"} == kept


@pytest.mark.slow
def test_steps_of_the_cpu_image_make_a_server_that_answers(tmp_path) -> None:
    def moved(text: str) -> str:
        for folder in FOLDERS:
            text = text.replace(folder, f"{tmp_path}{folder}")
        return text

    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    environ |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    source = tmp_path / "src"
    for name, rest in stages()["build-cpu"]:
        if name in ("ENV", "ARG"):
            pairs = dict(re.findall(r'(\w+)="?([^\s"]*)"?', rest))
            environ |= {
                key: moved(value).replace("$PATH", environ["PATH"])
                for key, value in pairs.items()
                if not (name == "ARG" and key in environ)
            }
        elif name == "COPY":
            for one in (ROOT / ".dockerignore").read_text().splitlines():
                if one.startswith("!"):
                    _copy(ROOT / one[1:], source / one[1:])
        elif name == "RUN":
            source.mkdir(exist_ok=True)
            subprocess.run(moved(rest), shell=True, cwd=source, env=environ, check=True)
    shutil.rmtree(source)  # as in the image, which only gets the virtual environment
    serve = dict(stages()["cpu"])
    environ["CASTSERVE_CACHE"] = str(tmp_path / "cache")
    command = json.loads(serve["ENTRYPOINT"])
    port = command[command.index("--port") + 1]
    process = subprocess.Popen([*command[:2], "127.0.0.1", *command[3:]], env=environ, cwd=tmp_path)
    try:
        probe = json.loads(serve["HEALTHCHECK"].partition("CMD ")[2])
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(probe, check=False, env=environ, capture_output=True).returncode:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(1)
        asked = (
            "import json, urllib.request as r; "
            f"q = r.Request('http://127.0.0.1:{port}/v1/completions', "
            'json.dumps({"model": "smollm2-135m-instruct", "prompt": "One, two,"}).encode(), '
            "{'Content-Type': 'application/json'}); "
            "assert json.load(r.urlopen(q, timeout=60))['choices'][0]['text']"
        )
        subprocess.run(["python", "-c", asked], env=environ, check=True)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    else:
        shutil.copy(source, target)
