"""Floating-point numbers as integers of the same order, for kernels that sort or bisect them."""

# mypy: allow-untyped-decorators, allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def to_ordered(value):
    """int32 that is greater for a greater float32; 0 and -0 are equal. No NaN."""
    bits = tl.where(value == 0, 0.0, value).to(tl.int32, bitcast=True)
    return _turn(bits)


@triton.jit
def from_ordered(ordered):
    """The float32 of which `to_ordered` made this int32."""
    return _turn(ordered).to(tl.float32, bitcast=True)


@triton.jit
def _turn(bits):
    """Negative floats fall as their bits rise: all but the sign are turned over."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
