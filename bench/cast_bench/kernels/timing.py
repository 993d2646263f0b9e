"""Seconds of a call with cold caches, and how fast memory is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from cast_kernels.work import Work
from cast_profiler.datasheets import data_sheet
from cast_profiler.device import copy_bandwidth, device_name, read_bandwidth
from cast_profiler.samples import HEAT

_LARGEST: Final = 2**30  # bytes that bandwidth is measured with
_LEAST_FLUSH: Final = 2**28
_LEAST_SAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class Roof:
    """What a device can do at most: bytes and operations a second, the latter None where nobody
    says; where that is from; bandwidths measured here, of a copy also when all is done."""

    bytes_per_second: float
    operations_per_second: float | None
    copied: float
    read: float
    source: str
    copied_after: float | None = None

    @property
    def is_disturbed(self) -> bool:
        """Whether the memory became slower or faster meanwhile by more than a reference may."""
        after = self.copied if self.copied_after is None else self.copied_after
        return max(after, self.copied) > HEAT * min(after, self.copied)

    def floor_seconds(self, work: Work) -> float:
        return work.floor_seconds(self.bytes_per_second, self.operations_per_second or math.inf)


def measure_roof(device: torch.device, dtype: torch.dtype) -> Roof:
    """The data sheet's if there is one for the device, else the faster of two measurements: a copy,
    which counts what it reads and what it writes as STREAM does (McCalpin 1995), and a sum, as it
    only reads. Operations are those of products of `dtype`."""
    copied, read = copy_bandwidth(_LARGEST, device), read_bandwidth(_LARGEST, device)
    sheet = data_sheet(device_name(device))
    if sheet is None:
        return Roof(max(copied, read), None, copied, read, "bandwidth measured here")
    operations = sheet.operations_per_second(dtype)
    return Roof(
        sheet.bytes_per_second.value, operations, copied, read, f"data sheet of {sheet.name}"
    )


def measured_again(roof: Roof, device: torch.device) -> Roof:
    """With `copied_after`."""
    return replace(roof, copied_after=copy_bandwidth(_LARGEST, device))


def times_of(
    runs: Sequence[Callable[[], Any]], device: torch.device, seconds: float
) -> list[list[float]]:
    """Seconds of calls of each of `runs`, about `seconds` in all for each, caches flushed before
    every call. On a CPU they take turns, so that a machine whose speed drifts treats all alike."""
    if device.type == "cuda":
        return [_cuda_times(run, seconds) for run in runs]
    return _cpu_times(runs, seconds * len(runs))


def _cuda_times(run: Callable[[], Any], seconds: float) -> list[float]:
    """By CUDA events, L2 overwritten before every call."""
    from triton.testing import do_bench

    milliseconds = do_bench(run, rep=round(1e3 * seconds), return_mode="all")
    return [one / 1e3 for one in milliseconds]


def _cpu_times(runs: Sequence[Callable[[], Any]], seconds: float) -> list[list[float]]:
    flush = torch.ones(max(2 * _cache_bytes(), _LEAST_FLUSH) // 4)
    for run in runs:
        run()
    taken: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + seconds
    while len(taken[0]) < _LEAST_SAMPLES or time.perf_counter() < end:
        for run, own in zip(runs, taken, strict=True):
            flush.sum()
            begin = time.perf_counter()
            run()
            own.append(time.perf_counter() - begin)
    return taken


def _cache_bytes() -> int:
    """Of the largest cache, 0 where the system does not say."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text.endswith("K"):
            sizes.append(1024 * int(text[:-1]))
    return max(sizes)
