"""What the device is, how fast its memory reads, and how hot it ran."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

_SMALLEST, _LARGEST = 64 * 2**20, 2**30  # bytes: beyond most caches, within most memories
_TRIES: Final = 5


def device_name(device: torch.device) -> str:
    """The processor's or the GPU's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def read_bandwidth(num_bytes: int, device: torch.device) -> float:
    """Bytes a second while a float32 buffer of about `num_bytes` is summed, the best of five."""
    count = min(max(num_bytes, _SMALLEST), _LARGEST) // 4
    buffer_N = torch.ones(count, device=device)
    return 4 * count / _fastest(buffer_N.sum, device)


def copy_bandwidth(num_bytes: int, device: torch.device) -> float:
    """Bytes a second read and written, added up, while one float32 buffer is copied to another, of
    about `num_bytes` together; the best of five."""
    count = min(max(num_bytes, _SMALLEST), _LARGEST) // 8
    source_N, target_N = torch.ones(2, count, device=device)
    return 8 * count / _fastest(lambda: target_N.copy_(source_N), device)


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_TRIES + 1):  # the first one touches the memory
        wait_for(device)
        begin = time.perf_counter()
        run()
        wait_for(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def telemetry(device: torch.device) -> dict[str, Any] | None:
    """Clocks in MHz, power and its cap in W, temperature in °C, memory in bytes.

    What NVML does not tell is left out; None where there is no NVML to ask. Never raises.
    """
    if device.type != "cuda":
        return None
    try:
        return _ask_nvml(device)
    except Exception:  # noqa: BLE001 - a profile without telemetry is better than none
        return None


def energy(device: torch.device) -> tuple[float | None, str]:
    """Joules that the device has used since its driver was loaded, or None and why. Never raises.

    The counter moves a few dozen times a second: differences over shorter times say nothing.
    """
    if device.type != "cuda":
        return None, f"NVML counts energy of NVIDIA's GPUs only, and this ran on {device.type}"
    try:
        with _nvml(device) as (nvml, handle):
            return nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000, ""
    except Exception as error:  # noqa: BLE001 - figures without energy are better than none
        return None, f"NVML does not tell: {error}"


@contextmanager
def _nvml(device: torch.device) -> Iterator[tuple[Any, Any]]:
    """The module and its handle of a CUDA device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package names its successor
        import pynvml
    pynvml.nvmlInit()
    try:
        # NVML numbers the GPUs of the machine, torch those that it may see.
        uuid = torch.cuda.get_device_properties(device).uuid
        yield pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    finally:
        pynvml.nvmlShutdown()


def _ask_nvml(device: torch.device) -> dict[str, Any]:
    with _nvml(device) as (nvml, handle):
        questions: dict[str, Callable[[], Any]] = {
            "sm_clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "power": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "power_cap": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
            "temperature": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "memory_used": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
            "memory_total": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total,
            "driver": lambda: str(nvml.nvmlSystemGetDriverVersion()),
        }
        answers: dict[str, Any] = {}
        for name, ask in questions.items():
            try:
                answers[name] = ask()
            except nvml.NVMLError:
                continue  # not every device answers every question
        return answers
