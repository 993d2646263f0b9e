"""What runs on this machine, and on what."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import torch

from cast_profiler.device import device_name, telemetry

_PACKAGES: Final = ("castserve", "torch", "triton", "transformers", "pynvml")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions; of a GPU also what torch and NVML say of it (see `telemetry` for units)."""
    found: dict[str, Any] = {
        "device": device_name(device),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    found |= {name: _version(name) for name in _PACKAGES}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda or torch.version.hip,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "nvml": telemetry(device) or "does not answer",
        }
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
