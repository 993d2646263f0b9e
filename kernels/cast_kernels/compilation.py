"""What a tool needs to compile a kernel ahead of time: no device, no launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Compilation:
    """One kernel in one configuration.

    signature: for every argument in order its Triton type, "constexpr" for those in `constexprs`.
    """

    name: str
    fn: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
