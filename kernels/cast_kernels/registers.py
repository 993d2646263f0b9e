"""How many registers a thread may have, for kernels that use nearly all of them."""

from __future__ import annotations

from typing import Final

import torch

_MOST: Final = 255
_FILE: Final = 65536  # of a multiprocessor
_WARP: Final = 32


def max_registers(num_warps: int) -> int:
    """The most that a program with so many warps can have on an NVIDIA device.

    Without a limit ptxas aims at a round number of programs, and rather spills a little.
    """
    return min(_MOST, _FILE // (_WARP * num_warps))


def register_options(device: torch.device, num_warps: int) -> dict[str, int]:
    """Options of a launch. AMD's compiler needs none, and knows none."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return {"maxnreg": max_registers(num_warps)} if is_nvidia else {}
