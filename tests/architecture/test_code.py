"""What keeps the code small and its layers apart, checked instead of hoped for."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "server": "cast_server",
    "kernels": "cast_kernels",
    "drafters": "cast_drafters",
    "profiler": "cast_profiler",
    "bench": "cast_bench",
}
SOURCES = sorted(p for root, name in PACKAGES.items() for p in (ROOT / root / name).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
MUTABLE_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
# mypy keeps these from being changed.
READ_ONLY_ANNOTATIONS = ("Final", "Mapping", "Sequence", "frozenset")
MUTABLE_TYPES = {"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter"}


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    path = os.pathsep.join(str(ROOT / root) for root in PACKAGES)
    checked = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("root", PACKAGES)
def test_source_root_is_no_package_and_holds_one(root: str) -> None:
    # transformers imports whatever is called `kernels`: see docs/adr/0001-import-names.md.
    assert not (ROOT / root / "__init__.py").exists()
    assert (ROOT / root / PACKAGES[root] / "py.typed").is_file()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_and_its_functions_are_small(path: Path) -> None:
    if path.name == "kernel.py":  # a Triton kernel reads best in one piece
        return
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    too_long = [
        f"{node.name} ({length} lines)"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not too_long


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_state_at_module_level(path: Path) -> None:
    """A table is fine, if it is a tuple or a MappingProxyType or annotated as what is read only."""
    assert not list(mutable_globals(ast.parse(path.read_text())))


def mutable_globals(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, ast.Assign):
            names = [ast.unparse(target) for target in node.targets]
        elif isinstance(node, ast.AnnAssign):
            if ast.unparse(node.annotation).startswith(READ_ONLY_ANNOTATIONS):
                continue
            names = [ast.unparse(node.target)]
        else:
            continue
        if names != ["__all__"] and node.value is not None and is_mutable(node.value):
            yield f"line {node.lineno}: {', '.join(names)}"


def is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in MUTABLE_TYPES
    return isinstance(value, MUTABLE_DISPLAYS)


def test_the_state_check_sees_state() -> None:
    code = "a = []\nb: dict = {}\nc: Final = {}\nd = (1,)\ne = deque()\n__all__ = ['a']\n"
    assert list(mutable_globals(ast.parse(code))) == ["line 1: a", "line 2: b", "line 5: e"]


def test_every_registered_drafter_can_be_imported() -> None:
    drafters = pytest.importorskip("cast_drafters.registry").DRAFTERS
    for target in drafters.values():
        module, _, name = target.partition(":")
        assert isinstance(getattr(import_module(module), name), type)
