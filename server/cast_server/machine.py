"""The device that is served on, and how much memory it has left."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from cast_server.errors import ConfigError

_GUESS: Final = 4 * 2**30  # where there is no way to ask; small enough for a laptop
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")  # as seen from inside a container: its own limits
_STATUS: Final = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that are free and that there are at all; `is_known`: nobody had to guess.

    `resident`: what this process has of the host's by now, Python and its libraries.
    """

    free: int
    total: int
    is_known: bool = True
    resident: int = 0


def find_device(name: str) -> torch.device:
    """The device of `--device`. Raises `ConfigError` if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: torch sees no CUDA device; use --device cpu.")
    try:
        device = torch.device(name)
    except RuntimeError as cause:
        raise ConfigError(f"--device {name}: not a device that torch knows.") from cause
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def memory_of(device: torch.device) -> Memory:
    """As it is now."""
    if device.type == "cuda":
        return Memory(*torch.cuda.mem_get_info(device), resident=resident_bytes())
    return replace(host_memory(), resident=resident_bytes())


def host_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> Memory:
    """What the machine has, or the container if it may have less."""
    try:
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
    except OSError:
        return Memory(_GUESS, _GUESS, is_known=False)
    free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    limit = _read_number(cgroup / "memory.max")
    used = _read_number(cgroup / "memory.current")
    if limit is None or used is None or limit >= total:
        return Memory(free, total)
    return Memory(min(free, limit - used + _reclaimable(cgroup)), limit)


def resident_bytes() -> int:
    """What this process has in memory by now; 0 where nobody tells."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmRSS")), 0)


def usable_cores(cgroup: Path = _CGROUP) -> float:
    """Processors that this process may use; a container's share need not be whole."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return min(float(cores or 1), int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return float(cores or 1)


def return_freed_memory() -> None:
    """Gives back to the system what was used while loading and is free again.

    glibc keeps it, some 200 MB of the default model's 1.3 GB.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries do without
        ctypes.CDLL(None).malloc_trim(0)


def _reclaimable(cgroup: Path) -> int:
    """Pages of files that the kernel counts as used and drops when it needs them."""
    try:
        lines = (cgroup / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(x.split()[1]) for x in lines if x.startswith("inactive_file "))


def _read_number(path: Path) -> int | None:
    """None where there is no such file, or no limit in it ("max")."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
