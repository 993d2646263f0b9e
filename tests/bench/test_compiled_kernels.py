"""The kernels' machine code, and the table of it: nothing spills, everything fits, nothing changed.

Compilers run in processes of their own, as this one's Triton interprets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

import cast_kernels
from cast_bench.compiled import cli, compiling, table
from cast_bench.compiled.architectures import ARCHITECTURES
from cast_bench.compiled.machine_code import Resources
from cast_bench.compiled.page import page

ROOT = Path(__file__).parents[2]
SM_80, SM_90, SM_100, GFX942 = ARCHITECTURES
USED = Resources(num_warps=4, registers=64, spilled_bytes=0, shared_bytes=0)


def run(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """As a user's command, in the checkout."""
    roots = os.pathsep.join(str(ROOT / name) for name in ("bench", "server", "kernels"))
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        | {"PYTHONPATH": roots},
        capture_output=True,
        text=True,
        check=False,
    )


def compile_kernels(*flags: str) -> None:
    ran = run("cast_bench.compiled.cli", *flags)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    if "are not compared" in ran.stdout:  # but nothing spills here either
        pytest.skip(ran.stdout.splitlines()[0])


def test_what_models_of_today_lead_to_neither_spills_nor_differs_from_the_table() -> None:
    compile_kernels()


@pytest.mark.slow
def test_nothing_spills_nor_differs_from_the_table() -> None:
    compile_kernels("--all")
