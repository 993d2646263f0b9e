"""What an engine is, as far as its times depend on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cast_drafters.eagle.drafter import EagleDrafter
from cast_kernels.backend import Backend
from cast_kernels.linear import WideLinear
from cast_profiler.device import device_name
from cast_profiler.fingerprint import Fingerprint, digest, package_versions
from cast_server.config import EngineConfig
from cast_server.engine.core import EngineCore


def fingerprint_of(core: EngineCore, config: EngineConfig) -> Fingerprint:
    """Of the engine that `config` has made."""
    runner = core.runner
    return make_fingerprint(
        config.model,
        runner.model.config,
        dtype=runner.dtype,
        device=runner.device,
        backend=backend_text(runner.backend, core.target.buckets, level_buckets(core)),
        drafter=core.drafter.name,
        head=_head(core, config),
    )


def make_fingerprint(
    model: str,
    model_config: Any,
    *,
    dtype: torch.dtype,
    device: torch.device,
    backend: str,
    drafter: str,
    head: str,
) -> Fingerprint:
    """`model` as `--model` names it; `backend` of `backend_text`."""
    return Fingerprint(
        device=device_name(device),
        threads=torch.get_num_threads() if device.type == "cpu" else 0,
        model=Path(model).expanduser().resolve().name,
        shape=digest(_describe(model_config)),
        dtype=str(dtype).removeprefix("torch."),
        backend=backend,
        drafter=drafter,
        head=head,
        versions=package_versions(),
    )


def weight_bytes(model: Any) -> int:
    """What a pass has to read: weights of linear layers, packed or not, and no embeddings."""
    total = 0
    inner = {
        id(part)
        for wide in model.modules()
        if isinstance(wide, WideLinear)
        for part in wide.children()
    }
    for module in model.modules():
        if id(module) in inner:
            continue  # how a wide layer multiplies
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            total += module.in_features * module.out_features * _itemsize(module, model)
        elif not isinstance(module, nn.Embedding):
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 2:
                    total += parameter.numel() * parameter.itemsize
    return total


def level_buckets(core: EngineCore) -> tuple[int, ...]:
    """The numbers of rows that levels of the drafter are padded to, if they are."""
    drafter = core.drafter
    return drafter.passes.buckets if isinstance(drafter, EagleDrafter) else ()


def backend_text(backend: Backend, rows: Sequence[int], draft_rows: Sequence[int]) -> str:
    """What attention is made of, and what passes are padded to, if they are."""
    parts = ["sdpa" if backend.name == "torch" else backend.name]
    for kind, buckets in (("rows", rows), ("draft rows", draft_rows)):
        if buckets:
            parts.append(f"{kind} {' '.join(map(str, buckets))}")
    return ", ".join(parts)


def _itemsize(module: Any, model: Any) -> int:
    """Wide layers keep float16 weights on a CPU, but for the few that do not fit, else float32."""
    if isinstance(module, WideLinear):
        return 2 if model.device.type == "cpu" and model.dtype.itemsize == 2 else 4
    return int(model.dtype.itemsize)


def _describe(model_config: Any) -> str:
    """The configuration without what differs from load to load, such as paths."""
    entries = {
        name: value
        for name, value in model_config.to_dict().items()
        if not name.startswith("_") and name not in ("transformers_version", "architectures")
    }
    return json.dumps(entries, sort_keys=True, default=str)


def _head(core: EngineCore, config: EngineConfig) -> str:
    if isinstance(core.drafter, EagleDrafter):
        return digest(repr(core.drafter.head.config))
    if config.head is not None:
        return digest((Path(config.head).expanduser() / "config.json").read_text())
    return ""
