"""Does castserve work on this machine's GPU, and is it right there? One command, one report.

What runs here; every kernel against its reference; a tiny engine on the kernels against plain
decoding on the CPU, token for token. On a CUDA device also the default model with its draft head,
speculating against not, and what steps take with CUDA graphs and without. On a machine without one
the kernels run in Triton's interpreter, and nothing is timed.

The exit status is 0 if all that was checked is right, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from cast_bench import lossless, tiny_engine
from cast_bench.parity import check_all
from cast_bench.prompts import PROMPTS, chat_ids
from cast_bench.provenance import provenance
from cast_kernels.backend import TORCH, Backend, choose_backend
from cast_profiler.device import device_name, telemetry
from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.errors import ConfigError, ModelNotFoundError
from cast_server.model_files import load_model, resolve_model
from cast_server.profiling.measuring import QUICK, measure_profile
from cast_server.profiling.table import describe

_PACKAGES: Final = ("castserve", "torch", "triton", "transformers", "pynvml")
_INTERPRET: Final = "TRITON_INTERPRET"
_MODEL: Final = "smollm2-135m-instruct"
_GRAPHS: Final = EngineConfig.model_fields["cuda_graphs"].default


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if anything is wrong, 2 for a wrong setting."""
    args = _parse(argv)
    try:
        device = _device(args.device)
    except ConfigError as error:
        print(f"cast-bench doctor: {error}", file=sys.stderr)
        return 2
    if device.type == "cpu" and os.environ.get(_INTERPRET) != "1":
        # Triton asks as it is imported, which may have happened already: another process then.
        words = sys.argv[1:] if argv is None else argv
        command = [sys.executable, "-m", "cast_bench.doctor", *words]
        return subprocess.call(command, env=os.environ | {_INTERPRET: "1"})
    report: dict[str, Any] = {"provenance": provenance("cast_bench.doctor", args)}
    report["environment"] = environment = _environment(device)
    for name, value in environment.items():
        print(f"{name}: {value}")
    backend = _backend(device, report)
    wrong = ["Triton"] if device.type == "cuda" and backend is TORCH else []
    wrong += _check_kernels(backend, device, report) + _check_engine(backend, device, report)
    if device.type == "cuda" and _has_model(report):
        wrong += _attempt("default model", partial(_check_model, device, report), report)
        if not args.no_timings:
            wrong += _attempt("timings", partial(_time_steps, device, report), report)
    report["wrong"] = wrong
    report["verdict"] = verdict = _verdict(backend, device, wrong)
    args.json.write_text(json.dumps(report, indent=1, default=str) + "\n")
    print(f"\n{verdict}\nThe report is in {args.json}.")
    return 1 if wrong else 0


def _device(name: str) -> torch.device:
    """Raises `ConfigError`."""
    has_cuda = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not has_cuda:
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu.")
    if os.environ.get(_INTERPRET, "0") != "0":
        raise ConfigError(f"{_INTERPRET} is set: unset it, so that kernels run on the device.")
    return torch.device("cuda", torch.cuda.current_device())


def _environment(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    found |= {name: _version(name) for name in _PACKAGES}
    found["device"] = device_name(device)
    found["cuda"] = torch.version.cuda or torch.version.hip
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["multiprocessors"] = properties.multi_processor_count
        found["memory"] = properties.total_memory
        found["telemetry"] = telemetry(device)
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _backend(device: torch.device, report: dict[str, Any]) -> Backend:
    """Triton's, or torch's where there is no Triton."""
    try:
        backend = choose_backend(device, "triton")
    except ValueError as error:
        print(f"\n{error}")
        backend = TORCH
    report["backend"] = backend.name
    return backend


def _check_kernels(backend: Backend, device: torch.device, report: dict[str, Any]) -> list[str]:
    """Names of what is not right."""
    where = f"{backend.name} on {device.type}"
    if backend is not TORCH and device.type == "cpu":
        where += ", interpreted"
    print(f"\nEvery operation against its reference ({where}):")
    report["parity"] = findings = []
    wrong = []
    for one in check_all(backend, device):
        outcome = one.failure or f"error {one.error:.2g}, at most {one.most:.0e}"
        print(f"  {'ok   ' if one.is_right else 'WRONG'} {one.name}: {outcome}", flush=True)
        findings.append(asdict(one) | {"is_right": one.is_right})
        wrong += [] if one.is_right else [one.name]
    return wrong


def _check_engine(backend: Backend, device: torch.device, report: dict[str, Any]) -> list[str]:
    """A tiny model in float32, against plain decoding on the CPU."""
    print("\nA tiny engine, greedy and seeded, with chains and trees, against the CPU:")
    expected = tiny_engine.plain_answers()
    padded = "engine, recorded in CUDA graphs" if device.type == "cuda" else "engine, padded"
    report["engine"] = found = []

    def check(mode: str, graphs: int) -> list[str]:
        settings = {"device": str(device), "kernels": backend.name, "cuda_graphs": graphs}
        one = tiny_engine.compare(mode, expected, **settings)
        print(
            f"  {'ok   ' if one.is_right else 'WRONG'} {mode}: {one.equal} of {one.answers} "
            f"answers equal, {one.accepted} drafts accepted",
            flush=True,
        )
        found.append(asdict(one))
        return [] if one.is_right else [mode]

    wrong: list[str] = []
    for mode, graphs in (("engine, step by step", 0), (padded, 3)):
        wrong += _attempt(mode, partial(check, mode, graphs), report)
    return wrong


def _has_model(report: dict[str, Any]) -> bool:
    try:
        resolve_model(_MODEL)
    except ModelNotFoundError as error:
        print(f"\nThe default model is left out, and so are timings: {error}")
        report["model"] = str(error)
        return False
    return True


def _check_model(device: torch.device, report: dict[str, Any]) -> list[str]:
    """The default model in float32 on the device, with its head: speculating against not."""
    print("\nThe default model with its head, float32, speculating and not:")
    core = build_core(
        _config(device, "float32", _GRAPHS), *load_model(resolve_model(_MODEL), torch.float32)
    )
    args = argparse.Namespace(output_len=64, concurrency=4)
    prompts = [chat_ids(core.tokenizer, prompt) for prompt in PROMPTS[:8]]
    plain = lossless.generate(core, prompts, "off", args)
    drafted = lossless.generate(core, prompts, "tree:12", args)
    differences = [
        lossless.explain(core, index, prompts[index], one, two)
        for index, (one, two) in enumerate(zip(plain, drafted, strict=True))
        if one != two
    ]
    report["model"] = [asdict(one) | {"margin": one.margin} for one in differences]
    equal, bugs = len(prompts) - len(differences), [d for d in differences if d.margin > 1e-3]
    print(f"  {equal} of {len(prompts)} answers equal, {len(bugs)} differences beyond rounding")
    return ["default model"] if bugs else []


def _time_steps(device: torch.device, report: dict[str, Any]) -> list[str]:
    """What steps take in bfloat16: a short profile with graphs, and one without."""
    report["timings"] = {}
    for mode, graphs in (("CUDA graphs", _GRAPHS), ("no graphs", 0)):
        config = _config(device, "bfloat16", graphs)
        core = build_core(config, *load_model(resolve_model(_MODEL), torch.bfloat16))
        profile = measure_profile(core, config, QUICK)
        report["timings"][mode] = profile.document()
        print(f"\nWith {mode}:\n{describe(profile)}")
    return []


def _config(device: torch.device, dtype: str, graphs: int) -> EngineConfig:
    changes: dict[str, Any] = {"dtype": dtype, "device": str(device), "cuda_graphs": graphs}
    return EngineConfig(model=_MODEL, kv_cache_tokens=16384, **changes)


def _attempt(name: str, check: Callable[[], list[str]], report: dict[str, Any]) -> list[str]:
    """What raises is wrong too, and must not keep the rest from being looked at."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001
        failure = f"{type(error).__name__}: {error}"
        report.setdefault("failures", {})[name] = failure
        print(f"  WRONG {name}: {failure}")
        return [name]


def _verdict(backend: Backend, device: torch.device, wrong: Sequence[str]) -> str:
    name = device_name(device)
    if wrong:
        return f"WRONG on {name}: {', '.join(wrong)}. Please report it, with the JSON file."
    if device.type == "cuda":
        return f"All is right on {name}."
    how = "no kernel ran" if backend is TORCH else "the kernels ran in Triton's interpreter"
    return (
        f"All is right, as far as can be told without a CUDA device: {how}, nothing was recorded "
        "in CUDA graphs, and nothing was timed."
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
