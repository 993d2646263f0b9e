"""What the documents promise must exist, and no file may name a host that packages come from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cast_server.config import EngineConfig, HttpConfig

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
# Which index packages come from is the business of whoever installs them. In two halves each, so
# that this file passes its own test.
REGISTRY_HOSTS = tuple(
    f"{name}.{domain}"
    for name, domain in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download.pytorch", "org"),
        ("conda", "anaconda.org"),
    ]
)


def repository_files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    return [p for name in listing.stdout.split("\0") if name and (p := ROOT / name).is_file()]


def test_no_file_names_a_package_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in repository_files()
        for host in REGISTRY_HOSTS
        if host in path.read_text(errors="replace").lower()
    ]
    assert not found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_documented_make_commands_exist(path: Path) -> None:
    commands = re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(), re.MULTILINE)
    assert set(commands) <= make_targets()


def test_readme_starts_with_the_two_commands() -> None:
    commands = re.findall(r"^(?:make|pip|python|cast-\w+) .*", readme(), re.MULTILINE)
    assert [command.split("#")[0].strip() for command in commands[:2]] == [
        "make serve",
        "make test",
    ]


def test_documented_flags_exist() -> None:
    flags = set(re.findall(r"^\| `--([a-z-]+)", readme(), re.MULTILINE))
    assert flags
    fields = EngineConfig.model_fields | HttpConfig.model_fields
    assert {flag.replace("-", "_") for flag in flags} <= set(fields)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


def readme() -> str:
    return (ROOT / "README.md").read_text()
