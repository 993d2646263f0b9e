"""From operations to times: an op whose result is not right is not timed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from tqdm import tqdm

from cast_bench.kernels.ops import TRITON, Case, Op
from cast_bench.kernels.timing import Roof, times_of
from cast_kernels.parity import MismatchError
from cast_kernels.work import Work
from cast_server.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Seconds of every call of one backend, or of torch's own function (`is_baseline`)."""

    op: str
    shape: str
    backend: str
    is_baseline: bool
    work: Work
    floor_seconds: float
    seconds: tuple[float, ...]


@dataclass(slots=True)
class Findings:
    """`refused`: ops of which nothing is reported, and how they are wrong. `skipped`: functions of
    torch that cannot be used here, and why."""

    results: list[Result] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def measure(
    ops: Sequence[Op],
    device: torch.device,
    roof: Roof,
    seconds: float,
    wanted: Collection[str] | None = None,
) -> Findings:
    """Each backend of each op for about `seconds`; of all usable ones, or those of `wanted`.

    `refuse_interpreter` is to be asked before.
    """
    findings = Findings()
    with torch.inference_mode(), tqdm(ops, unit="op") as progress:
        for op in progress:
            progress.set_description(op.name)
            case = op.make(device)
            names = _usable(case, device, wanted)
            try:
                right = [name for name in names if _is_right(op, case, name, findings)]
            except MismatchError as error:
                findings.refused[op.name] = str(error)
                continue
            runs = [partial(case.function(name), *case.arguments) for name in right]
            times = times_of(runs, device, seconds) if runs else []
            findings.results += [
                _result(op, case, name, roof, taken)
                for name, taken in zip(right, times, strict=True)
            ]
    return findings


def refuse_interpreter(device: torch.device, wanted: Collection[str] | None) -> None:
    """Raises `ConfigError` if a Triton kernel was to be timed in Triton's interpreter."""
    if device.type != "cuda":
        if wanted is not None and TRITON in wanted:
            raise ConfigError(
                f"--backends {TRITON}: on a CPU Triton kernels run in its interpreter, whose times "
                "say nothing; use a CUDA device, or leave it out."
            )
    elif wanted is None or TRITON in wanted:
        from triton import knobs

        if knobs.runtime.interpret:
            raise ConfigError(
                "TRITON_INTERPRET is set, and times of Triton's interpreter say nothing; unset it."
            )


def _usable(case: Case, device: torch.device, wanted: Collection[str] | None) -> list[str]:
    names = [*case.backends, *case.baselines]
    if wanted is not None:
        return [name for name in names if name in wanted]
    return [name for name in names if name != TRITON or device.type == "cuda"]


def _is_right(op: Op, case: Case, name: str, findings: Findings) -> bool:
    """False for torch's own function if it cannot be used. Raises `MismatchError` for a backend."""
    if name in case.backends:
        try:
            case.check(case.function(name))
        except MismatchError as error:
            raise MismatchError(f"{name}, {error}") from error
        return True
    try:
        case.check(case.function(name))
    except Exception as error:  # noqa: BLE001 - torch may fail in any way; the reason is reported
        reason = str(error).strip().partition("\n")[0]
        findings.skipped[f"{op.name} ({name})"] = f"{type(error).__name__}: {reason}"
        return False
    return True


def _result(op: Op, case: Case, name: str, roof: Roof, taken: Sequence[float]) -> Result:
    return Result(
        op=op.name,
        shape=op.shape,
        backend=name,
        is_baseline=name in case.baselines,
        work=op.work,
        floor_seconds=roof.floor_seconds(op.work),
        seconds=tuple(taken),
    )
