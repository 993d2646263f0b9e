"""Arrays that the host fills and the device reads at places that never change; and what it sends
back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT: Final = 16  # bytes, which Triton takes for granted of pointers it has seen aligned


class Field(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype


class Staging:
    """`host[name]` lies in page-locked memory of the host, `device[name]` is its twin.

    All fields are one piece of memory, so that one copy, for which nobody waits, brings them over.
    """

    def __init__(self, fields: Mapping[str, Field], device: torch.device) -> None:
        ends: dict[str, int] = {}
        num_bytes = 0
        for name, (shape, dtype) in fields.items():
            ends[name] = num_bytes + math.prod(shape) * dtype.itemsize
            num_bytes = -(-ends[name] // _ALIGNMENT) * _ALIGNMENT
        is_cuda = device.type == "cuda"
        self._host = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=is_cuda)
        self._device = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self._sent = torch.cuda.Event() if is_cuda else None
        self._end = num_bytes

        def views(memory: Tensor) -> dict[str, Tensor]:
            return {
                name: memory[ends[name] - math.prod(shape) * dtype.itemsize : ends[name]]
                .view(dtype)
                .view(shape)
                for name, (shape, dtype) in fields.items()
            }

        self.host: Mapping[str, NDArray[Any]] = MappingProxyType(
            {name: one.numpy() for name, one in views(self._host).items()}
        )
        self.device: Mapping[str, Tensor] = MappingProxyType(views(self._device))

    def wait(self) -> None:
        """Until the last copy has left the host's memory: it may be written to again."""
        if self._sent is not None:
            self._sent.synchronize()

    def send(self, unused: int = 0) -> None:
        """Brings the device's twins up to date, but for the last `unused` bytes of the last."""
        end = self._end - unused
        self._device[:end].copy_(self._host[:end], non_blocking=True)
        if self._sent is not None:
            self._sent.record()


class Arrival:
    """A tensor on its way back: the copy follows what is on the device's queue by now."""

    def __init__(self, tensor: Tensor) -> None:
        is_cuda = tensor.device.type == "cuda"
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=is_cuda)
        self._host.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.Event() if is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def wait(self) -> NDArray[Any]:
        """Until it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.numpy()
