"""What a tool needs to compile a kernel ahead of time: no device, no launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Compilation:
    """One kernel in one configuration.

    signature: for every argument in order its Triton type, "constexpr" for those in `constexprs`.
    aligned: integers that are multiples of 16 in every launch that matters; pointers always are.
    max_registers: a limit for a thread on NVIDIA devices, above which ptxas would rather spill.
    beside: architectures whose hardware lacks a type of this configuration.
    """

    name: str
    fn: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    aligned: tuple[str, ...] = ()
    max_registers: int | None = None
    beside: tuple[str, ...] = ()
