"""The `cast-bench` command: its table, its help, its refusals; and nothing imported too early."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

from cast_bench import cli

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_exists_and_says_what_it_is_for(name) -> None:
    module, _, function = cli.COMMANDS[name].partition(":")
    imported = import_module(module)
    assert list(signature(getattr(imported, function)).parameters) == ["argv"]
    assert cli.summary(name) == (imported.__doc__ or "").partition("\n")[0] != ""


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_its_own_help(name, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cast-bench {name} ")


def test_help_names_all_commands_and_imports_none() -> None:
    script = "import sys; from cast_bench.cli import main\n"
    script += "try: main(['--help'])\nfinally: print('torch' in sys.modules)"
    path = os.pathsep.join(str(ROOT / root) for root in ("bench", "server"))
    told = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.endswith("False\n")
    assert all(f"\n  {name} " in told for name in cli.COMMANDS)
    assert "examples:\n  cast-bench " in told


def test_an_unknown_command_is_named_with_those_there_are(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["fly"])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "'fly'" in told
    assert "compare" in told


def test_no_command_prints_the_help(capsys) -> None:
    assert cli.main([]) == 2
    assert "examples:" in capsys.readouterr().out


def test_a_wrong_setting_is_one_sentence(capsys, tmp_path) -> None:
    missing = str(tmp_path / "nowhere")
    assert cli.main(["rounding", "--model", missing]) == 2
    told = capsys.readouterr().err
    assert told.startswith("cast-bench rounding: ")
    assert missing in told
    assert told.count("\n") == 1


def test_the_command_is_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["cast-bench"] == "cast_bench.cli:main"
