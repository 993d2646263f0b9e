"""What NVIDIA says of its devices, figure by figure. Nothing here was measured.

Speeds are peaks, FLOP/s dense: where a sheet rates tensor cores with sparsity, half of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import torch


class Figure(NamedTuple):
    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSheet:
    """`cuda_name` is what CUDA calls the device, to the letter: a part of one (MIG), or one with
    other memory, has another name. `fp8` is None where tensor cores have no such type."""

    name: str
    cuda_name: str
    bytes_per_second: Figure
    bf16: Figure
    fp8: Figure | None
    l2_bytes: Figure
    processors: Figure

    def operations_per_second(self, dtype: torch.dtype) -> float | None:
        """Of products of this type; None where the figures above say nothing of it."""
        if dtype in (torch.bfloat16, torch.float16):
            return self.bf16.value
        return self.fp8.value if self.fp8 is not None and dtype.itemsize == 1 else None


_A100_SHEET: Final = "NVIDIA A100 Tensor Core GPU datasheet"
_A100_PAPER: Final = "NVIDIA A100 Tensor Core GPU Architecture whitepaper"
_H100_SHEET: Final = "NVIDIA H100 Tensor Core GPU datasheet"
_H100_PAPER: Final = "NVIDIA H100 Tensor Core GPU Architecture whitepaper"
_H200_SHEET: Final = "NVIDIA H200 Tensor Core GPU datasheet"
_H200_HALF: Final = f"{_H200_SHEET}, half of what it rates with sparsity"
_B200_SHEET: Final = "NVIDIA Blackwell datasheet, HGX B200"
_B200_HALF: Final = f"{_B200_SHEET}, half of what it rates with sparsity"
_TUNING: Final = "NVIDIA Blackwell Tuning Guide"
_CUDA: Final = "CUDA's device properties, as others have printed them; on no sheet"

DATA_SHEETS: Final = (
    DataSheet(
        name="A100 80GB SXM",
        cuda_name="NVIDIA A100-SXM4-80GB",
        bytes_per_second=Figure(2.039e12, _A100_SHEET),
        bf16=Figure(312e12, _A100_SHEET),
        fp8=None,
        l2_bytes=Figure(40 * 2**20, _A100_PAPER),
        processors=Figure(108, _A100_PAPER),
    ),
    DataSheet(
        name="H100 SXM",
        cuda_name="NVIDIA H100 80GB HBM3",
        bytes_per_second=Figure(3.35e12, _H100_SHEET),
        bf16=Figure(989.4e12, _H100_PAPER),
        fp8=Figure(1978.9e12, _H100_PAPER),
        l2_bytes=Figure(50 * 2**20, _H100_PAPER),
        processors=Figure(132, _H100_PAPER),
    ),
    DataSheet(
        name="H200 SXM",
        cuda_name="NVIDIA H200",
        bytes_per_second=Figure(4.8e12, _H200_SHEET),
        bf16=Figure(989.5e12, _H200_HALF),
        fp8=Figure(1979e12, _H200_HALF),
        l2_bytes=Figure(60 * 2**20, _CUDA),
        processors=Figure(132, _CUDA),
    ),
    DataSheet(
        name="B200",
        cuda_name="NVIDIA B200",
        bytes_per_second=Figure(7.7e12, _B200_SHEET),
        bf16=Figure(2.25e15, _B200_HALF),
        fp8=Figure(4.5e15, _B200_HALF),
        l2_bytes=Figure(126 * 2**20, _TUNING),
        processors=Figure(148, _CUDA),
    ),
)


def data_sheet(cuda_name: str) -> DataSheet | None:
    """Of the device that CUDA calls so, or None."""
    return next((one for one in DATA_SHEETS if one.cuda_name == cuda_name), None)
