"""The Dockerfile, on machines without a container engine: linted, and its steps done by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("/opt/castserve", "/src", "/var/cache/castserve", "/home/castserve")
# As the health check has it: within the start period, failures do not count.
START_SECONDS = 120
USER = 1000


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


def variables(stage: str) -> dict[str, str]:
    """What ENV sets in it."""
    lines = " ".join(rest for name, rest in stages()[stage] if name == "ENV")
    return dict(re.findall(r'(\w+)="?([^\s"]*)"?', lines))


def kept() -> list[str]:
    """What of the repository gets into the build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line[1:] for line in lines if line.startswith("!")]


def test_lint() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [linter, "Dockerfile"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_images_run_as_nobody_special_and_tell_their_health(name) -> None:
    stage = dict(stages()[name])
    assert stage["USER"] == str(USER)
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert "/health" in stage["HEALTHCHECK"]
    assert f"--start-period={START_SECONDS}s" in stage["HEALTHCHECK"]
    assert json.loads(stage["ENTRYPOINT"]) == ["cast-serve"]
    assert variables(name)["CASTSERVE_HOST"] == "0.0.0.0"
    assert variables(name)["CASTSERVE_PORT"] == stage["EXPOSE"]
    assert list(stages())[-1] == "cpu"  # what is built if no target is named


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_all_caches_are_in_the_one_volume(name) -> None:
    volume = dict(stages()[name])["VOLUME"]
    caches = {
        key: x for key, x in variables(name).items() if key.endswith(("_CACHE", "DIR", "_HOME"))
    }
    assert set(caches) == {"CASTSERVE_CACHE", "TRITON_CACHE_DIR", "HF_HOME", "TMPDIR"}
    assert all(path.startswith(volume) for path in caches.values())


def test_the_served_image_is_slim_and_holds_no_sources() -> None:
    bases = {rest.partition(" AS ")[2]: rest for name, rest in instructions() if name == "FROM"}
    assert bases["serve"].startswith("python:${PYTHON}-slim ")
    for name in ("cpu", "cuda"):
        copies = [rest for step, rest in stages()[name] if step == "COPY"]
        assert copies == [f"--from=build-{name} /opt/castserve /opt/castserve"]


def test_what_is_copied_is_all_that_is_needed() -> None:
    assert all((ROOT / name).exists() for name in kept())
    packages = re.search(r"^where = (.*)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    assert set(json.loads(packages[1])) | {"pyproject.toml", "README.md", "LICENSE"} == set(kept())


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that another user may look into, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="castserve-image-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_steps_of_the_cpu_image_make_a_server_that_answers(place: Path) -> None:
    """Without the sources, with nothing in the environment and nothing but the cache to write to:
    as far as that can be had, another user sees a file system that is read-only otherwise."""
    build(place)
    shutil.rmtree(place / "src")  # as in the image, which only gets the virtual environment
    serve = dict(stages()["cpu"])
    port = free_port()
    environ = {key: moved(place, value) for key, value in variables("cpu").items()}
    environ |= {"PATH": f"{place}/opt/castserve/bin:{os.environ['PATH']}"}
    environ |= {"CASTSERVE_HOST": "127.0.0.1", "CASTSERVE_PORT": str(port), "LANG": "C.UTF-8"}
    environ |= {"HOME": f"{place}/home/castserve"}
    home, cache = Path(environ["HOME"]), Path(environ["CASTSERVE_CACHE"])
    for folder in (home, cache):
        folder.mkdir(parents=True)
    confined = read_only_but(cache)
    inside = {"env": environ, "cwd": home} | another_user(cache)
    check = subprocess.run(
        [*confined, "cast-serve", "--check"], check=False, capture_output=True, **inside
    )
    assert check.returncode == 0, check.stdout.decode() + check.stderr.decode()
    process = subprocess.Popen([*confined, *json.loads(serve["ENTRYPOINT"])], **inside)
    try:
        probe = json.loads(serve["HEALTHCHECK"].partition("CMD ")[2])
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(probe, check=False, capture_output=True, **inside).returncode:
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
        subprocess.run(["python", "-c", asked], check=True, **inside)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert list(home.iterdir()) == []
    # Steps are not measured on a machine that is too busy; the model is unpacked on any.
    assert "models" in {entry.name for entry in cache.iterdir()}


def read_only_but(cache: Path) -> list[str]:
    """What to put before a command, if this may be done here: it takes root and namespaces."""
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind / && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", script, str(cache)]
    try:
        can = subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0
    except OSError:
        can = False
    return prefix if can else []


def another_user(cache: Path) -> dict[str, Any]:
    """That of the image, if this is root and its Python is not in a folder of root's own."""
    folders = [Path(sys.base_prefix), *Path(sys.base_prefix).parents]
    if os.geteuid() or not all(folder.stat().st_mode & 0o001 for folder in folders):
        return {}
    if read_only_but(cache):  # which only root can do
        return {}
    os.chown(cache, USER, USER)
    return {"user": USER, "group": USER, "extra_groups": []}


def build(place: Path) -> None:
    """Does the steps of build-cpu in `place`."""
    environ = {"HOME": str(place), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    environ |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    source = place / "src"
    for name, rest in stages()["build-cpu"]:
        if name in ("ENV", "ARG"):
            environ |= settings(place, name, rest, environ)
        elif name == "COPY":
            copy_committed(source)
        elif name == "RUN":
            source.mkdir(exist_ok=True)
            command = moved(place, rest)
            subprocess.run(command, shell=True, cwd=source, env=environ, check=True)


def settings(place: Path, name: str, rest: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What an ENV or ARG adds; an ARG gives way to what is there."""
    pairs = dict(re.findall(r'(\w+)="?([^\s"]*)"?', rest))
    return {
        key: moved(place, value).replace("$PATH", environ["PATH"])
        for key, value in pairs.items()
        if not (name == "ARG" and key in environ)
    }


def moved(place: Path, text: str) -> str:
    """Paths of the image, in `place`."""
    for folder in FOLDERS:
        text = text.replace(folder, f"{place}{folder}")
    return text


def copy_committed(target: Path) -> None:
    """What git would give anybody, changes that are not committed yet included."""
    git = ["git", "-C", str(ROOT)]
    stash = subprocess.run([*git, "stash", "create"], capture_output=True, check=True, text=True)
    command = [*git, "archive", stash.stdout.strip() or "HEAD", *kept()]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(target, filter="data")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])
