"""What a kernel's machine code needs of a device, as the compilers of Triton say, without one."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

from cast_kernels.compilation import Compilation


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Of a thread, but for shared memory and tensor memory, which are a program's.

    registers: on AMD devices vector registers, those of accumulators included. spilled_bytes: of
    local memory, which is where registers go that do not fit. scalars, parked_scalars: AMD's
    registers that a warp shares, and those of them that are kept in lanes of a vector register.
    """

    num_warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    scalars: int = 0
    parked_scalars: int = 0
    tensor_columns: int = 0


def resources(one: Compilation, target: tuple[str, int | str, int]) -> Resources:
    """Of `one` on Triton's target (backend, architecture, warp size).

    Triton must not have been told to interpret. Raises whatever Triton raises of what it cannot
    compile, and ends the process where LLVM gives up.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: one.signature[name] for name in one.fn.arg_names}
    source = ASTSource(one.fn, signature, one.constexprs, _attributes(one, target[0]))
    options: dict[str, Any] = {"num_warps": one.num_warps, "num_stages": one.num_stages}
    options["enable_fp_fusion"] = True  # Triton's default up to 3.9, and silent about it
    if target[0] == "cuda" and one.max_registers is not None:
        options["maxnreg"] = one.max_registers
    compiled = triton.compile(source, target=GPUTarget(*target), options=options)
    read = _of_nvidia if target[0] == "cuda" else _of_amd
    return read(compiled)


def compiler_versions() -> dict[str, str]:
    """What the figures depend on: AMD's and NVIDIA's code generators come with Triton."""
    import triton

    nvidia = triton.knobs.nvidia
    ptxas = {"ptxas": nvidia.ptxas.version, "ptxas-blackwell": nvidia.ptxas_blackwell.version}
    return {"triton": triton.__version__, **ptxas}


def _attributes(one: Compilation, backend: str) -> dict[tuple[int, ...], list[list[Any]]]:
    """What a launch would find out of its arguments."""
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, name in enumerate(one.fn.arg_names):
        is_pointer = one.signature[name].startswith("*")
        if is_pointer or name in one.aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
        if is_pointer and backend == "hip" and name not in one.large:
            attributes[(index,)].append(["tt.pointer_range", 32])
    return attributes


def _of_nvidia(compiled: Any) -> Resources:
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = dict(re.findall(r"\b([A-Z]+):(\d+)", told))
    return Resources(
        num_warps=compiled.metadata.num_warps,
        registers=int(used["REG"]),
        spilled_bytes=int(used["STACK"]) + int(used["LOCAL"]),
        shared_bytes=compiled.metadata.shared,
        tensor_columns=compiled.metadata.tmem_size or 0,
    )


def _of_amd(compiled: Any) -> Resources:
    # The metadata at the end of the assembly, one kernel a file.
    used = dict(re.findall(r"^\s+\.(\w+):\s+(\d+)$", compiled.asm["amdgcn"], re.MULTILINE))
    spilled = 4 * int(used["vgpr_spill_count"])
    return Resources(
        num_warps=compiled.metadata.num_warps,
        registers=int(used["vgpr_count"]),
        spilled_bytes=max(spilled, int(used["private_segment_fixed_size"])),
        shared_bytes=compiled.metadata.shared,
        scalars=int(used["sgpr_count"]),
        parked_scalars=int(used["sgpr_spill_count"]),
    )
