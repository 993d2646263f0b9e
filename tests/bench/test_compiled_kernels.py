"""The kernels' machine code, and the table of it: nothing spills, everything fits, nothing changed.

Compilers run in processes of their own, as this one's Triton interprets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cast_bench.compiled import cli
from cast_bench.compiled.architectures import ARCHITECTURES
from cast_bench.compiled.compiling import MODULES, cases
from cast_bench.compiled.machine_code import Resources
from cast_bench.compiled.page import page
from cast_bench.compiled.table import Row, Table

ROOT = Path(__file__).parents[2]
SM_80, SM_90, SM_100, GFX942 = ARCHITECTURES
USED = Resources(num_warps=4, registers=64, spilled_bytes=0, shared_bytes=0)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As a user's command, in the checkout."""
    roots = ("bench", "server", "kernels", "drafters", "profiler")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=kept | {"PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in roots)},
        capture_output=True,
        text=True,
        check=False,
    )


def compile_kernels(*flags: str) -> None:
    ran = run("-m", "cast_bench.cli", "compiled-kernels", *flags)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    for line in ran.stdout.splitlines():
        if "are not compared" in line:  # but nothing spills here either
            pytest.skip(line)


def recorded() -> Table:
    return Table.read(ROOT / cli.TABLE)


def row(used: Resources, architecture: str = "sm_90") -> Table:
    return Table({}, [Row("kernel", "case", is_usual=True, on={architecture: used})])


def test_default_configurations_neither_spill_nor_differ_from_the_table() -> None:
    compile_kernels()


@pytest.mark.slow
def test_nothing_spills_nor_differs_from_the_table() -> None:
    compile_kernels("--all")


def test_every_kernel_that_is_launched_is_compiled() -> None:
    launching = {
        ".".join(path.relative_to(ROOT / "kernels").with_suffix("").parts)
        for path in (ROOT / "kernels/cast_kernels").rglob("*.py")
        if "kernel[" in path.read_text()
    }
    assert launching == set(MODULES)


def test_the_table_lists_what_the_code_lists() -> None:
    names = {one.name for one in ARCHITECTURES}
    listed = [
        (case.one.kernel, case.one.case, case.one.is_usual, names - set(case.one.beside))
        for case in cases()
    ]
    rows = recorded().rows
    assert [(row.kernel, row.case, row.is_usual, set(row.on)) for row in rows] == listed
    assert len({row.name for row in rows}) == len(rows)


def test_the_table_has_no_problems_and_the_page_says_what_it_says() -> None:
    assert list(recorded().problems()) == []
    assert (ROOT / cli.TABLE).with_suffix(".md").read_text() == page(recorded())


def test_spills_are_read_from_machine_code() -> None:
    """A real kernel in a limit of registers that is too small for it."""
    script = """
from dataclasses import replace
from cast_bench.compiled.machine_code import resources
from cast_kernels.norm_linear.kernel import compilations
one = next(one for one in compilations() if one.case == "bf16 64x64x64, 3 norms")
print(resources(replace(one, max_registers=64), ("cuda", 90, 32)).spilled_bytes)
"""
    ran = run("-W", "ignore", "-c", script)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout) > 0


@pytest.mark.parametrize(
    ("used", "said"),
    [
        (replace(USED, spilled_bytes=8), "kernel case on sm_90 spills 8 bytes a thread"),
        (replace(USED, shared_bytes=SM_90.max_shared_bytes + 1), "wants 232449 bytes of shared"),
        (replace(USED, num_warps=32, registers=255), "does not fit"),
    ],
)
def test_problems_are_told(used: Resources, said: str) -> None:
    (told,) = row(used).problems()
    assert said in told
    assert list(row(USED).problems()) == []


def test_spills_on_amd_devices_are_a_problem_in_usual_cases() -> None:
    table = row(replace(USED, spilled_bytes=8), "gfx942")
    assert len(list(table.problems())) == 1
    rare = replace(table, rows=[replace(one, is_usual=False) for one in table.rows])
    assert list(rare.problems()) == []


def test_differences_are_told() -> None:
    changed = replace(USED, registers=65)
    assert list(row(USED).differences(row(USED))) == []
    (told,) = row(changed).differences(row(USED))
    assert "kernel case on sm_90" in told
    (told,) = row(USED).differences(Table({}, []))
    assert told == "kernel case is not in the table"


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    row(USED).write(tmp_path / "table.json")
    assert Table.read(tmp_path / "table.json") == row(USED)


@pytest.mark.parametrize(
    ("architecture", "used", "share"),
    [
        (SM_90, USED, 0.5),  # 8 blocks of 4 warps of 64 * 32 registers
        (SM_90, replace(USED, registers=255), 0.125),  # up to 8192 a warp
        (SM_80, replace(USED, registers=32, shared_bytes=40 * 1024), 0.25),  # 4 of 41 KiB
        (SM_90, replace(USED, registers=32, shared_bytes=40 * 1024), 0.3125),  # 5 of them
        (SM_100, replace(USED, registers=32, tensor_columns=256), 0.125),  # 2 of 256 columns
        (GFX942, replace(USED, registers=128, scalars=100), 0.5),  # 4 waves of a SIMD
        (GFX942, replace(USED, registers=32, shared_bytes=33 * 1024), 0.125),  # 1 workgroup
    ],
)
def test_occupancy(architecture, used, share) -> None:
    assert architecture.occupancy(used) == share
