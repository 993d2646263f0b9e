"""How fast each operation could be on devices that nobody has measured: a page, on paper.

Bytes and operations come from `cast_kernels/work.py`, speeds from `cast_profiler/datasheets.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cast_bench.kernels.ops import DTYPE, Op, ops
from cast_bench.kernels.shapes import MODELS, Step
from cast_profiler.datasheets import DATA_SHEETS, DataSheet, Figure

PAGE: Final = Path("docs/kernels/rooflines.md")

_INTRO: Final = """\
# Rooflines

**Computed on paper: nothing on this page was timed.** No kernel of this project has run on any of
these devices. A floor is the time below which the device cannot do what an operation must do; how
near a kernel comes is for `cast-bench kernels` to say, on the device.

Written by one command, in a checkout; a test fails if the page is not what it writes:

    cast-bench rooflines --out docs/kernels/rooflines.md

## Devices

Peaks, as NVIDIA names them; products are dense.
"""

_METHOD: Final = """
## How

Bytes are those that no implementation can spare, with cold caches: what is looked at once in, what
comes out once out ([work.py](../../kernels/cast_kernels/work.py)). Operations are those of
products, two for a multiply-add; an op without products counts one for each element that it looks
at. The floor is the longer of bytes over bandwidth and operations over the bfloat16 rate, after
Williams et al. 2009; **bold** where the operations decide.

What it leaves out only makes things slower:

- Launching a kernel takes microseconds. A floor below that says that the launch is what costs, and
  that the op belongs into a graph.
- Nobody reaches a peak. The measured bandwidth that `cast-bench kernels` prints beside its times is
  the better goal.
- `tree_accept` and `frontier` wait for chains of dependent steps, not for memory.
- `gumbel_argmax` takes two float64 logarithms a token, which no figure above rates.
- Of a tree's keys each row is counted to see its own, the least that a tree can have.

Cold caches are the one assumption that can be too harsh: all keys of a commit, or a head's logits,
fit into the L2 of these devices, and what the kernel before has just written need not come from
memory."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    if args.out is None:
        print(page(), end="")
    else:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page())
    return 0


def page() -> str:
    """Markdown, the same every time."""
    return "\n".join([_INTRO, *_devices(), _METHOD, *_floors()]) + "\n"


def _devices() -> Iterator[str]:
    yield "| | " + " | ".join(sheet.name for sheet in DATA_SHEETS) + " |"
    yield "|---" * (len(DATA_SHEETS) + 1) + "|"
    notes: dict[str, int] = {}
    for label, name, unit in (
        ("memory, TB/s", "bytes_per_second", 1e12),
        ("bfloat16, TFLOP/s", "bf16", 1e12),
        ("float8, TFLOP/s", "fp8", 1e12),
        ("L2, MiB", "l2_bytes", 2.0**20),
        ("multiprocessors", "processors", 1.0),
    ):
        cells = [_cell(getattr(sheet, name), unit, notes) for sheet in DATA_SHEETS]
        yield f"| {label} | " + " | ".join(cells) + " |"
    yield ""
    yield from (f"{number}. {source}" for source, number in notes.items())


def _cell(figure: Figure | None, unit: float, notes: dict[str, int]) -> str:
    if figure is None:
        return "none"
    number = notes.setdefault(figure.source, len(notes) + 1)
    return f"{figure.value / unit:g} ({number})"


def _floors() -> Iterator[str]:
    step = Step()
    for name, model in MODELS.items():
        yield f"\n## Floors, shapes of {name}\n"
        yield f"Microseconds of one call; {step.batch} sequences, a tree of {step.rows} rows each, "
        yield f"{step.context} tokens before it.\n"
        names = " | ".join(sheet.name for sheet in DATA_SHEETS)
        yield f"| op | shape | MB | Mop | {names} |"
        yield "|---" * (len(DATA_SHEETS) + 4) + "|"
        yield from map(_line, ops(model, step))


def _line(op: Op) -> str:
    floors = " | ".join(_floor(op, sheet) for sheet in DATA_SHEETS)
    megabytes, millions = _short(op.work.bytes_moved / 1e6), _short(op.work.operations / 1e6)
    return f"| `{op.name}` | {op.shape} | {megabytes} | {millions} | {floors} |"


def _floor(op: Op, sheet: DataSheet) -> str:
    operations = sheet.operations_per_second(DTYPE)
    assert operations is not None, sheet.name
    memory = op.work.floor_seconds(sheet.bytes_per_second.value)
    both = op.work.floor_seconds(sheet.bytes_per_second.value, operations)
    text = _short(1e6 * both)
    return f"**{text}**" if both > memory else text


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cast-bench rooflines", description=__doc__)
    parser.add_argument("--out", type=Path, help=f"default: print it; the repository's is {PAGE}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
