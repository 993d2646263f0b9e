"""Is what castserve computes on this machine right?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch

from cast_bench.doctor import tiny_engine
from cast_bench.doctor.findings import Findings
from cast_bench.kernels.ops import TRITON, Op, ops
from cast_bench.kernels.shapes import MODELS, ModelShape, Step
from cast_kernels.backend import Backend
from cast_kernels.parity import MismatchError

# Nothing divides anything: heads, vocabularies and rows leave tiles half empty.
_ODD: Final = (ModelShape(2, 72, 6, 2, 24, 100, 1500, 700), Step(batch=2, rows=3, context=37))
_OF_A_MODEL: Final = (MODELS["smollm2-135m"], Step(batch=5, rows=17, context=999))
_ON_TORCH: Final[Mapping[str, Any]] = MappingProxyType({"kernels": "torch"})
_ON_KERNELS: Final[Mapping[str, Any]] = MappingProxyType({"kernels": TRITON, "cuda_graphs": 0})
_IN_GRAPHS: Final[Mapping[str, Any]] = MappingProxyType({"kernels": TRITON, "cuda_graphs": 3})


def check_kernels(found: Findings, device: torch.device, backend: Backend) -> None:
    """Every implementation of every operation against what is right: in odd shapes, and on a CUDA
    device in those of a model."""
    shapes = {"odd": _ODD}
    if device.type == "cuda":
        shapes["a model's"] = _OF_A_MODEL
    for kind, (model, step) in shapes.items():
        print(f"\nEvery operation against what is right, shapes: {kind}")
        for op in ops(model, step):
            found.check(f"{op.name}, {kind}", partial(_compare_backends, op, device, backend))


def _compare_backends(op: Op, device: torch.device, backend: Backend) -> str:
    case = op.make(device)
    names = [name for name in case.backends if name != TRITON or backend.name == TRITON]
    with torch.inference_mode():
        for name in names:
            try:
                case.check(case.function(name))
            except Exception as error:
                raise MismatchError(f"{name}: {type(error).__name__}: {error}") from error
    return f"{', '.join(names)}; {op.shape}"


def check_engine(found: Findings, device: torch.device, backend: Backend) -> None:
    """A tiny model in float32, drafting on this device, against plain decoding on the CPU."""
    print("\nA tiny engine, greedy and seeded, with chains and trees, against plain decoding:")
    found.check("engine on torch", partial(_compare_engine, device, _ON_TORCH))
    if backend.name == TRITON:
        is_cuda = device.type == "cuda"
        graphs = "in CUDA graphs" if is_cuda else "padded as for CUDA graphs"
        found.check("engine on kernels", partial(_compare_engine, device, _ON_KERNELS))
        found.check(f"engine {graphs}", partial(_compare_engine, device, _IN_GRAPHS))


def _compare_engine(device: torch.device, settings: Mapping[str, Any]) -> str:
    expected = tiny_engine.plain_answers()
    core = tiny_engine.make_engine(device=str(device), **settings)
    if settings.get("cuda_graphs") and not core.target.buckets:
        raise MismatchError("steps cannot be recorded")
    answers, accepted = tiny_engine.run_misled(core, expected)
    wrong = [name for name in expected if answers[name] != expected[name]]
    if wrong:
        raise MismatchError(f"{len(wrong)} of {len(expected)} answers differ")
    if not accepted:
        raise MismatchError("answers are equal, but no draft was accepted")
    return f"{len(expected)} answers equal, {accepted} drafts accepted"
