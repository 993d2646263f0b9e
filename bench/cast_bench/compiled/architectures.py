"""What a multiprocessor holds at once, by architecture, and how much of it a kernel can fill."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from cast_bench.compiled.machine_code import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """In NVIDIA's words; AMD's for warp, block and multiprocessor are wave, workgroup and CU.

    target: Triton's backend, architecture and warp size. warps, blocks: the most there can be on a
    multiprocessor; single_blocks: of blocks of one warp, which need no barrier. registers: of the
    multiprocessor, in `partitions` equal parts; a warp gets them in multiples of `register_unit`.
    scalars, scalar_unit: the same, of a partition, for registers that a warp's lanes share; 0 where
    there are enough for all. shared_bytes: of all blocks; a block gets multiples of `shared_unit`,
    `shared_reserved` of them for the driver, and at most `max_shared_bytes` for itself.
    tensor_columns: of tensor memory.
    """

    name: str
    device: str
    source: str
    target: tuple[str, int | str, int]
    warps: int
    blocks: int
    single_blocks: int
    registers: int
    register_unit: int
    shared_bytes: int
    max_shared_bytes: int
    shared_unit: int
    shared_reserved: int = 0
    scalars: int = 0
    scalar_unit: int = 1
    tensor_columns: int = 0
    partitions: int = 4

    def occupancy(self, used: Resources) -> float:
        """The share of a multiprocessor's warps that can be there at once, on paper.

        With w warps a block, up(x, u) for x rounded up to a multiple of u, and // for division
        without its rest, the blocks are the least of

            the limit of blocks
            limit of warps // w
            partitions * (registers of one // up(a thread's * warp size, register unit)) // w
            partitions * (scalars of one // up(a warp's, scalar unit)) // w
            shared bytes // up(a block's + reserved, shared unit)
            tensor columns // a block's

        and the occupancy is blocks * w / limit of warps: 0 if not a single block fits. More is not
        better in itself: it says how many warps can wait for memory side by side.
        """
        warps = used.num_warps
        lanes = _up(used.registers * self.target[2], self.register_unit)
        limits = [self.single_blocks if warps == 1 else self.blocks, self.warps // warps]
        limits.append(self.partitions * (self.registers // self.partitions // lanes) // warps)
        if self.scalars:
            own = _up(max(1, used.scalars), self.scalar_unit)
            limits.append(self.partitions * (self.scalars // own) // warps)
        if shared := _up(used.shared_bytes + self.shared_reserved, self.shared_unit):
            limits.append(self.shared_bytes // shared)
        if used.tensor_columns:
            limits.append(self.tensor_columns // used.tensor_columns)
        return min(limits) * warps / self.warps


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


_KIB: Final = 1024
_NVIDIA: Final = "CUDA C++ Programming Guide, technical specifications per compute capability {}"
_AMD: Final = "AMD CDNA 3 ISA; LLVM, User Guide for AMDGPU Backend"

_nvidia: Final = partial(  # what its three have in common
    Architecture,
    warps=64,
    blocks=32,
    single_blocks=32,
    registers=64 * _KIB,
    register_unit=256,
    shared_unit=128,
    shared_reserved=_KIB,
)

ARCHITECTURES: Final = (
    _nvidia(
        name="sm_80",
        device="A100",
        source=_NVIDIA.format("8.0"),
        target=("cuda", 80, 32),
        shared_bytes=164 * _KIB,
        max_shared_bytes=163 * _KIB,
    ),
    _nvidia(
        name="sm_90",
        device="H100, H200",
        source=_NVIDIA.format("9.0"),
        target=("cuda", 90, 32),
        shared_bytes=228 * _KIB,
        max_shared_bytes=227 * _KIB,
    ),
    _nvidia(
        name="sm_100",
        device="B200",
        source=_NVIDIA.format("10.0"),
        target=("cuda", 100, 32),
        shared_bytes=228 * _KIB,
        max_shared_bytes=227 * _KIB,
        tensor_columns=512,
    ),
    Architecture(
        name="gfx942",
        device="MI300X",
        source=_AMD,
        target=("hip", "gfx942", 64),
        warps=32,
        blocks=16,
        single_blocks=32,
        registers=128 * _KIB,
        register_unit=512,
        shared_bytes=64 * _KIB,
        max_shared_bytes=64 * _KIB,
        shared_unit=512,
        scalars=800,
        scalar_unit=16,
    ),
)
