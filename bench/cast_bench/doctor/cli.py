"""Is castserve right on this machine's GPU, and how fast? One command, one report to send in.

What runs here and on what; every operation against what is right; a tiny engine with drafts, with
and without CUDA graphs, against plain decoding, token for token. On a CUDA device also the default
model with its head, and first times: kernels beside their floors, steps with graphs and without.
On a machine without one, kernels run in Triton's interpreter, and nothing is timed.

The exit status is 0 if all that was looked at is right, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from cast_bench.doctor.checks import check_engine, check_kernels
from cast_bench.doctor.commands import check_model, take_times
from cast_bench.doctor.environment import environment
from cast_bench.doctor.findings import Findings
from cast_bench.provenance import provenance
from cast_kernels.backend import TORCH, Backend, choose_backend
from cast_profiler.device import device_name
from cast_server.errors import ConfigError

_INTERPRET: Final = "TRITON_INTERPRET"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if anything is wrong. Raises `ConfigError` for a device that cannot be used."""
    args = _parse(argv)
    device = _device(args.device)
    if device.type == "cpu" and os.environ.get(_INTERPRET) != "1":
        return _in_the_interpreter(sys.argv[1:] if argv is None else argv)
    found = Findings({"provenance": provenance("cast_bench.doctor.cli", args)})
    found.entries["environment"] = here = environment(device)
    print("\n".join(f"{name}: {value}" for name, value in here.items()))
    backend = _backend(found, device)
    check_kernels(found, device, backend)
    check_engine(found, device, backend)
    if device.type == "cuda":
        check_model(found)
        if not args.no_timings:
            take_times(found, device)
    found.entries["verdict"] = verdict = _verdict(found, device, backend)
    args.json.write_text(json.dumps(found.document(), indent=1) + "\n")
    print(f"\n{verdict}\nThe report is in {args.json}.")
    return 1 if found.wrong else 0


def _device(name: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu.")
    if name == "cpu" or not has_cuda:
        return torch.device("cpu")
    if os.environ.get(_INTERPRET, "0") != "0":
        raise ConfigError(f"{_INTERPRET} is set: unset it, so that kernels run on the device.")
    return torch.device("cuda", torch.cuda.current_device())


def _in_the_interpreter(words: Sequence[str]) -> int:
    """In another process, as Triton decides when it is imported, which may be long ago."""
    command = [sys.executable, "-m", "cast_bench.cli", "doctor", *words]
    return subprocess.call(command, env=os.environ | {_INTERPRET: "1"})


def _backend(found: Findings, device: torch.device) -> Backend:
    """Triton's; torch's where there is no Triton, which is wrong on a CUDA device only."""
    try:
        return choose_backend(device, "triton")
    except ValueError as error:
        missing = found.wrong if device.type == "cuda" else found.left_out
        missing["kernels"] = str(error)
        print(error)
        return TORCH


def _verdict(found: Findings, device: torch.device, backend: Backend) -> str:
    name = device_name(device)
    if found.wrong:
        return f"WRONG on {name}: {'; '.join(found.wrong)}. Please report it, with the JSON file."
    if device.type == "cuda":
        rest = f" Left out: {', '.join(found.left_out)}." if found.left_out else ""
        return f"All that was looked at is right on {name}.{rest}"
    how = "no kernel ran" if backend is TORCH else "kernels ran in Triton's interpreter"
    return (
        f"There is no CUDA device here. All is right as far as {name} can tell: {how}, nothing was "
        "recorded in CUDA graphs, and nothing was timed."
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="cast-bench doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=("auto", "cuda", "cpu"), default="auto")
    add("--no-timings", action="store_true", help="check only")
    add(
        "--json",
        type=Path,
        default=Path("cast-doctor.json"),
        metavar="FILE",
        help="the report (default: cast-doctor.json)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
