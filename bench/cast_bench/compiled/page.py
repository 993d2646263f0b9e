"""The table as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from cast_bench.compiled.architectures import ARCHITECTURES, Architecture
from cast_bench.compiled.machine_code import Resources
from cast_bench.compiled.table import Row, Table

_INTRO: Final = """\
# Compiled kernels

**Nothing on this page was run.** It says what Triton's compilers make of every kernel, in every
configuration that a launch can choose, on machines without a GPU.
{cases} cases are {programs} programs, of which {spilling}.
Compiled with {compilers}.

Written by one command, in a checkout. It takes minutes the first time, and writes nothing if a
program does not fit, or spills on NVIDIA's architectures or in a usual case (**bold**):

    cast-bench compiled-kernels --write

A test compiles the usual cases, which are the configurations that default settings choose, each in
its largest usual shape, and fails if one spills, does not fit, or is not what stands here;
`pytest -m slow` compiles all.

## Architectures
"""

_METHOD: Final = """
Occupancy is the share of a multiprocessor's warps that can be there at once by these limits;
`Architecture.occupancy` ([architectures.py](../../bench/cast_bench/compiled/architectures.py)) has
the formula. It is no measure of speed: an attention kernel that fills the registers with its tile
may be the faster one.

## How

Arguments are those of a launch: integers below 2^31 are 32 bits, pointers and what is named aligned
are multiples of 16, and on AMD devices all but caches are below 2 GiB. Registers and spills are
what `cuobjdump --dump-resource-usage` prints (stack and local memory are counted as spilled), and
AMD's metadata at the end of the assembly. Caches and queries in float16, as wide as those in
bfloat16, are not listed.

AMD devices have scalar registers too, one for all lanes of a warp. Where they run out, the compiler
*parks* scalars in lanes of a vector register: a few instructions each, no memory."""

_LEGEND: Final = """
## Kernels

Each cell: registers of a thread, KiB of shared memory, occupancy; bytes spilled, if any. *p* is the
number of parked scalars.
"""


def page(table: Table) -> str:
    """Markdown, the same for the same table."""
    used = [one for row in table.rows for one in row.on.values()]
    intro = _INTRO.format(
        cases=len(table.rows),
        programs=len(used),
        spilling=_spilling(table.rows),
        compilers=", ".join(f"{name} {version}" for name, version in table.compilers.items()),
    )
    parts = [intro, *_limits(), _METHOD, _LEGEND]
    for kernel, rows in groupby(table.rows, lambda row: row.kernel):
        parts += [f"### {kernel}\n", *_kernel(list(rows)), ""]
    return "\n".join(parts)


def _spilling(rows: Sequence[Row]) -> str:
    on = [name for row in rows for name, one in row.on.items() if one.spilled_bytes]
    if not on:
        return "none spills registers to memory"
    return f"{len(on)} spill registers to memory, all on {' and '.join(sorted(set(on)))}"


def _limits() -> Iterator[str]:
    yield "| | " + " | ".join(f"{one.name}, {one.device}" for one in ARCHITECTURES) + " |"
    yield "|---" * (len(ARCHITECTURES) + 1) + "|"
    for label, values in (
        ("warps", [one.warps for one in ARCHITECTURES]),
        ("threads of a warp", [one.target[2] for one in ARCHITECTURES]),
        ("blocks", [one.blocks for one in ARCHITECTURES]),
        ("registers", [one.registers for one in ARCHITECTURES]),
        ("shared memory, KiB", [one.shared_bytes // 1024 for one in ARCHITECTURES]),
        ("of it for a block, KiB", [one.max_shared_bytes // 1024 for one in ARCHITECTURES]),
        ("columns of tensor memory", [one.tensor_columns or "none" for one in ARCHITECTURES]),
    ):
        yield f"| {label} | " + " | ".join(str(value) for value in values) + " |"
    yield ""
    yield from (f"- {one.name}: {one.source}" for one in ARCHITECTURES)


def _kernel(rows: Sequence[Row]) -> Iterator[str]:
    yield "| case | warps | " + " | ".join(one.name for one in ARCHITECTURES) + " |"
    yield "|---" * (len(ARCHITECTURES) + 2) + "|"
    for row in rows:
        cells = " | ".join(cell(one, row.on.get(one.name)) for one in ARCHITECTURES)
        case = f"**{row.case}**" if row.is_usual else row.case
        warps = max(one.num_warps for one in row.on.values())
        yield f"| {case} | {warps} | {cells} |"


def cell(architecture: Architecture, used: Resources | None) -> str:
    """See the legend."""
    if used is None:
        return "no such type"
    share = architecture.occupancy(used)
    text = f"{used.registers} · {used.shared_bytes / 1024:.3g} · {share:.0%}"
    if used.parked_scalars:
        text += f" · {used.parked_scalars} p"
    return f"{text} · **{used.spilled_bytes} B spilled**" if used.spilled_bytes else text
