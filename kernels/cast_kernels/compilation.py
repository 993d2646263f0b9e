"""What a tool needs to compile a kernel ahead of time: no device, no launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Compilation:
    """One kernel in one configuration, with the arguments of a launch that may happen.

    kernel, case: what tables call them.
    signature: for every argument its Triton type, "constexpr" for those in `constexprs`. Integers
    are i32, as below 2^31 Triton passes them, but for those that may be beyond.
    aligned: integers that are multiples of 16 in such a launch; pointers always are.
    large: pointers to what may have 2 GiB and more, which AMD devices address in another way.
    max_registers: the launch's limit for a thread on NVIDIA devices.
    beside: architectures whose hardware lacks a type of this configuration.
    is_usual: whether it stands for its configuration, which default settings choose, in the largest
    shape that is usual. The others are compiled where there is time.
    """

    kernel: str
    case: str
    fn: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    aligned: tuple[str, ...] = ()
    large: tuple[str, ...] = ()
    max_registers: int | None = None
    beside: tuple[str, ...] = ()
    is_usual: bool = True

    @property
    def name(self) -> str:
        return f"{self.kernel} {self.case}"
