"""Each operation's time against its floor and against torch's own, where a wrong one is not timed.

The floor is what its bytes need at the memory's speed, and on a CUDA device with a known data sheet
its products, if they need longer. Before anything of an op is timed, its backends are compared with
what is right, by the comparison that the tests make; if one differs, the op is named, nothing of it
is reported, and the exit status is 1. Caches are flushed before every call. On a CPU the backends
that the engine uses there are timed, on a CUDA device the Triton kernels beside them. Triton's
interpreter is never timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from cast_bench.kernels.measuring import Findings, measure, refuse_interpreter
from cast_bench.kernels.ops import DTYPE, TRITON, Op, ops
from cast_bench.kernels.report import document, markdown
from cast_bench.kernels.shapes import MODELS, Step
from cast_bench.kernels.timing import Roof, measure_roof, measured_again
from cast_bench.provenance import provenance
from cast_profiler.device import device_name
from cast_server.errors import ConfigError

BACKENDS: Final = (
    "sdpa",
    "reference",
    "packed",
    "wide",
    TRITON,
    "torch-sdpa",
    "torch-flex",
    "torch-linear",
)
_EXAMPLES: Final = """\
examples:
  cast-bench kernels                                     all of them, at the shape for this device
  cast-bench kernels --ops tree_attention frontier --seconds 3
  cast-bench kernels --backends triton torch-sdpa        on a CUDA device
  cast-bench kernels --json kernels.json --markdown kernels.md
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if an op was refused. Raises `ConfigError` for what cannot be timed here."""
    args = _parse(argv)
    torch.set_num_threads(args.threads)
    device = _device(args.device)
    refuse_interpreter(device, args.backends)
    chosen = _chosen(args, device)
    roof = measure_roof(device, DTYPE)
    findings = measure(chosen, device, roof, args.seconds, args.backends)
    roof = measured_again(roof, device)
    _write(findings, roof, args, device)
    for name, how in findings.refused.items():
        print(
            f"cast-bench kernels: {name} is not what it has to be ({how}), so it is not reported.",
            file=sys.stderr,
        )
    return 1 if findings.refused else 0


def _chosen(args: argparse.Namespace, device: torch.device) -> list[Op]:
    args.model = args.model or ("llama-3.1-8b" if device.type == "cuda" else "smollm2-135m")
    every = ops(MODELS[args.model], Step(args.batch, args.rows, args.context))
    names = [op.name for op in every]
    unknown = [name for name in args.ops or () if name not in names]
    if unknown:
        raise ConfigError(f"--ops {unknown[0]}: there is no such op; choose {', '.join(names)}.")
    return [op for op in every if args.ops is None or op.name in args.ops]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu.")
    return torch.device(name)


def _write(findings: Findings, roof: Roof, args: argparse.Namespace, device: torch.device) -> None:
    threads = f", {args.threads} threads" if device.type == "cpu" else ""
    text = f"{device_name(device)}{threads}; shapes of {args.model}.\n\n{markdown(findings, roof)}"
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n")
    if args.json:
        origin = {
            "provenance": provenance("cast_bench.kernels.cli", args),
            "device": device_name(device),
        }
        args.json.write_text(json.dumps(origin | document(findings, roof)) + "\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cast-bench kernels",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--ops", nargs="+", metavar="OP", help="default: all")
    add("--backends", nargs="+", choices=BACKENDS, metavar="NAME", help=", ".join(BACKENDS))
    add("--model", choices=tuple(MODELS), help="whose shapes (default: depends on the device)")
    step = Step()
    add("--batch", type=int, default=step.batch, help=f"sequences (default: {step.batch})")
    add("--rows", type=int, default=step.rows, help=f"of each sequence (default: {step.rows})")
    add("--context", type=int, default=step.context, help=f"tokens (default: {step.context})")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seconds", type=float, default=1.0, help="for each backend of each op (default: 1)")
    add("--json", type=Path, help="write every time to this file")
    add("--markdown", type=Path, help="write the table to this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
