"""The kernels' machine code on devices that are not here: registers, spills, shared memory.

Compiles for four architectures, and fails where a kernel spills, does not fit, or is not what the
table in the repository says. Run it in a checkout.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tqdm import tqdm

from cast_bench.compiled.architectures import ARCHITECTURES
from cast_bench.compiled.compiling import Case, CompilerError, cases, compile_cases
from cast_bench.compiled.machine_code import compiler_versions
from cast_bench.compiled.page import cell, page
from cast_bench.compiled.table import Row, Table, other_compilers

TABLE: Final = Path("docs/kernels/compiled.json")


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    try:
        table = Table(compiler_versions(), list(_rows(_wanted(args), args.processes)))
    except CompilerError as error:
        print(error)
        return 1
    wrong = list(table.problems())
    if not args.write:
        wrong += _compare(table, args.table)
    print(*wrong, f"{len(table.rows)} cases, {len(wrong)} problems", sep="\n")
    if args.write and not wrong:
        table.write(args.table)
        args.table.with_suffix(".md").write_text(page(table))
    return 1 if wrong else 0


def _wanted(args: argparse.Namespace) -> list[Case]:
    everything = args.all or args.write or args.only
    return [
        case
        for case in cases()
        if (everything or case.one.is_usual) and re.search(args.only or "", case.one.name)
    ]


def _rows(wanted: Sequence[Case], processes: int) -> Iterator[Row]:
    with tqdm(compile_cases(wanted, processes), total=len(wanted), unit="case") as progress:
        for case, on in progress:
            cells = (f"{one.name} {cell(one, on.get(one.name))}" for one in ARCHITECTURES)
            progress.write(f"{case.one.name}: {'; '.join(cells)}")
            yield Row.of(case.one, on)


def _compare(table: Table, path: Path) -> Iterator[str]:
    if not path.exists():
        yield f"{path} is missing: cast-bench compiled-kernels --write makes it"
        return
    recorded = Table.read(path)
    if sentence := other_compilers(table.compilers, recorded.compilers):
        print(sentence)
    else:
        yield from table.differences(recorded)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench compiled-kernels", description=__doc__)
    add = parser.add_argument
    add("--all", action="store_true", help="also what no model of today leads to by default")
    add("--only", metavar="REGEX", help="of all, those whose name has this in it")
    add("--write", action="store_true", help="compile all and write the table, if nothing is wrong")
    add("--table", type=Path, default=TABLE, help="its file; the page goes beside it")
    add("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    if args.write and args.only:
        parser.error("--write writes the whole table: leave out --only")
    return args


if __name__ == "__main__":
    sys.exit(main())
