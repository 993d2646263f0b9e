"""The table of all kernels on all architectures: what is wrong in it, and what has changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cast_bench.compiled.architectures import ARCHITECTURES
from cast_bench.compiled.machine_code import Resources
from cast_kernels.compilation import Compilation


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel in one case, on every architecture that has its types."""

    kernel: str
    case: str
    is_usual: bool
    on: Mapping[str, Resources]

    @classmethod
    def of(cls, one: Compilation, on: Mapping[str, Resources]) -> Row:
        return cls(one.kernel, one.case, one.is_usual, on)

    @property
    def name(self) -> str:
        return f"{self.kernel} {self.case}"


@dataclass(frozen=True, slots=True)
class Table:
    compilers: Mapping[str, str]
    rows: Sequence[Row]

    @classmethod
    def read(cls, path: Path) -> Table:
        document = json.loads(path.read_text())
        rows = [
            Row(**one | {"on": {name: Resources(**used) for name, used in one["on"].items()}})
            for one in document["rows"]
        ]
        return cls(document["compilers"], rows)

    def write(self, path: Path) -> None:
        """A row a line, so that a change is seen as one."""
        rows = ",\n".join(json.dumps(asdict(row)) for row in self.rows)
        head = json.dumps({"compilers": dict(self.compilers)})[:-1]
        path.write_text(f'{head}, "rows": [\n{rows}\n]}}\n')

    def problems(self) -> Iterator[str]:
        """Whatever does not fit or spills: on NVIDIA devices anything, on AMD's what is usual."""
        for row in self.rows:
            for architecture in ARCHITECTURES:
                if (used := row.on.get(architecture.name)) is None:
                    continue
                where = f"{row.name} on {architecture.name}"
                is_nvidia = architecture.target[0] == "cuda"
                if used.spilled_bytes and (is_nvidia or row.is_usual):
                    yield f"{where} spills {used.spilled_bytes} bytes a thread"
                if used.shared_bytes > architecture.max_shared_bytes:
                    least, most = used.shared_bytes, architecture.max_shared_bytes
                    yield f"{where} wants {least} bytes of shared memory, a block has {most}"
                elif architecture.occupancy(used) == 0:
                    yield f"{where} does not fit: {used}"

    def differences(self, recorded: Table) -> Iterator[str]:
        """Where this one, the whole or a part, is not what was recorded with the same compilers."""
        known = {row.name: row for row in recorded.rows}
        for row in self.rows:
            if row.name not in known:
                yield f"{row.name} is not in the table"
                continue
            for name, used in row.on.items():
                was = known[row.name].on.get(name)
                if used != was:
                    yield f"{row.name} on {name}: {used}, the table says {was}"


def other_compilers(now: Mapping[str, str], recorded: Mapping[str, str]) -> str | None:
    """A sentence if figures of the two cannot be compared."""
    if dict(now) == dict(recorded):
        return None
    here, there = (
        " and ".join(f"{name} {version}" for name, version in one.items())
        for one in (now, recorded)
    )
    return (
        f"The table was made with {there}, here is {here}, which may use registers in another way: "
        "its figures are not compared. cast-bench compiled-kernels --write makes a new one."
    )
