"""The file of a comparison of policies: written after every round, and read to go on after a kill.

Rounds are whole: what a killed run had of its last one is measured again. Every start has left its
provenance, as the code or the machine may have been others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from cast_bench.policy_cells import Cell, Difference
from cast_bench.policy_report import best_fixed
from cast_bench.provenance import other_arguments, provenance

_FIGURE: Final = "tokens over seconds of steps that only decode, with the batch full"
# What is done with the cells, and how many there are: it does not change what a cell is.
_FREE: Final = frozenset({"rounds", "markdown", "fail_under", "resume", "against", "by_set"})


@dataclass(slots=True)
class Document:
    """`starts` are the provenances of the runs that took the cells, the present one last."""

    args: argparse.Namespace
    calibration: dict[str, Any] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        return max((cell.round for cell in self.cells), default=0)

    def begin(self) -> None:
        self.starts.append(provenance("cast_bench.policies", self.args))

    def write(self) -> None:
        sizes = sorted({cell.batch_size for cell in self.cells})
        document = {
            "provenance": self.starts[-1],
            "earlier_starts": self.starts[:-1],
            "figure": _FIGURE,
            "rounds": self.rounds,
            "best_fixed": {size: best_fixed(self.cells, size) for size in sizes},
            "calibration": self.calibration,
            "cells": [asdict(cell) for cell in self.cells],
        }
        scratch = self.args.json.with_suffix(".new")
        scratch.write_text(json.dumps(document) + "\n")
        scratch.replace(self.args.json)


def resumed(args: argparse.Namespace) -> Document:
    """What `args.json` holds, or nothing yet. Raises `ValueError` if other cells are in it."""
    path: Path = args.json
    if not path.exists():
        return Document(args)
    read = json.loads(path.read_text())
    if told := other_arguments(read["provenance"], provenance("cast_bench.policies", args), _FREE):
        raise ValueError(f"{path.name} was measured with {told}; choose another --json.")
    starts = [*read.get("earlier_starts", []), read["provenance"]]
    return Document(args, read["calibration"], _cells(read["cells"]), starts)


def _cells(records: Sequence[dict[str, Any]]) -> list[Cell]:
    return [
        Cell(**record | {"differences": [Difference(**one) for one in record["differences"]]})
        for record in records
    ]
