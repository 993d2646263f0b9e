"""Commands that a doctor runs on a CUDA device: the default model, and the first times."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import torch

from cast_bench import lossless
from cast_bench.doctor.findings import Findings
from cast_bench.kernels import cli as kernels
from cast_kernels.parity import MismatchError
from cast_server.errors import ModelNotFoundError
from cast_server.model_files import resolve_model
from cast_server.profiling import cli as profile

_MODEL: Final = "smollm2-135m-instruct"
_LARGE: Final = 16 * 2**30  # bytes of a device that has room for the shapes of a large model


class Command(NamedTuple):
    """`main` of a command, its flags, and the one that names its JSON file."""

    main: Callable[[Sequence[str]], int]
    flags: tuple[str, ...]
    file_flag: str = "--json"


LOSSLESS: Final = Command(
    lossless.main,
    ("--dtype", "float32", "--policy", "tree:12", "--num-prompts", "8", "--output-len", "64"),
)


def check_model(found: Findings) -> None:
    """The default model with its head in float32: what it says with drafts and without."""
    print("\nThe default model with its head, float32, with drafts and without:")
    if _has_model(found, "default model"):
        found.check("default model", partial(run_command, found, "lossless", LOSSLESS))


def take_times(found: Findings, device: torch.device) -> None:
    """Kernels beside their floors; steps with CUDA graphs and without."""
    commands = {"times of kernels": kernel_times(device)}
    if _has_model(found, "times of steps"):
        commands["times of steps, CUDA graphs"] = step_times()
        commands["times of steps, no CUDA graphs"] = step_times("--cuda-graphs", "0")
    for name, command in commands.items():
        print(f"\nFirst {name}:")
        found.check(name, partial(run_command, found, name, command))


def kernel_times(device: torch.device) -> Command:
    is_large = torch.cuda.get_device_properties(device).total_memory >= _LARGE
    flags = ("--backends", "triton", "torch-sdpa", "torch-linear", "--seconds", "0.2")
    model = "llama-3.1-8b" if is_large else "smollm2-135m"
    return Command(kernels.main, (*flags, "--device", "cuda", "--model", model))


def step_times(*flags: str) -> Command:
    return Command(profile.main, ("run", "--quick", "--kv-cache-tokens", "16384", *flags), "--out")


def run_command(found: Findings, name: str, command: Command) -> str:
    """Its file becomes the entry `name`. Raises `MismatchError` if it fails."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "report.json"
        status = command.main([*command.flags, command.file_flag, str(file)])
        if file.exists():
            found.entries[name] = json.loads(file.read_text())
    if status:
        raise MismatchError(f"exit status {status}, see above")
    return "see above"


def _has_model(found: Findings, name: str) -> bool:
    try:
        resolve_model(_MODEL)
    except ModelNotFoundError as error:
        found.leave_out(name, str(error))
        return False
    return True
