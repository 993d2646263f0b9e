"""How a backend is compared with what is right: the same in tests and before anything is timed.

Each op's own `parity.py` has random arguments (`sample`) and the comparison (`check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

# Relative errors against float64 that the rounding of inputs and outputs explains.
MOST: Final[Mapping[torch.dtype, float]] = MappingProxyType(
    {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
)
_CLOSE: Final = 1e-5


class MismatchError(Exception):
    """A backend's result is not what it has to be; the message says which and how."""


def relative_error(out: Tensor, right: Tensor) -> float:
    """In the Frobenius norm."""
    norm = right.double().norm().clamp(min=1e-30)
    return float((out.double() - right.double()).norm() / norm)


def expect_near(what: str, out: Tensor, right: Tensor, most: float) -> None:
    """Raises `MismatchError` unless shapes agree and the relative error is below `most`."""
    _expect_shape(what, out, right)
    error = relative_error(out, right)
    if not error < most:  # NaN is not
        raise MismatchError(f"{what}: relative error {error:.3g}, allowed is {most:.3g}")


def expect_close(what: str, out: Tensor, right: Tensor) -> None:
    """Raises `MismatchError` unless type, shape and each number agree, but for its last bits."""
    _expect_type(what, out, right)
    if not torch.allclose(out, right, atol=_CLOSE, rtol=_CLOSE):
        most = float((out.double() - right.double()).abs().max())
        raise MismatchError(f"{what}: off by up to {most:.3g}")


def expect_equal(what: str, out: Tensor, right: Tensor) -> None:
    """Raises `MismatchError` unless type, shape and each bit agree."""
    _expect_type(what, out, right)
    if out.dtype.is_floating_point:
        out, right = (one.contiguous().view(torch.uint8) for one in (out, right))
    if not torch.equal(out, right):
        wrong = int((out != right).sum())
        raise MismatchError(f"{what}: {wrong} of {out.numel()} differ")


def _expect_type(what: str, out: Tensor, right: Tensor) -> None:
    if out.dtype != right.dtype:
        raise MismatchError(f"{what}: is {out.dtype}, has to be {right.dtype}")
    _expect_shape(what, out, right)


def _expect_shape(what: str, out: Tensor, right: Tensor) -> None:
    if out.shape != right.shape:
        raise MismatchError(f"{what}: is {list(out.shape)}, has to be {list(right.shape)}")
