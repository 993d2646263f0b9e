"""Which implementation of every operation runs: decided once, when the parts are put together.

    backend = choose_backend(device)
    backend.kv_write(kv_cache_S2KD, kv_N2KD, slot_N)

The contracts are in the operations' packages. "torch" is made of references and, where a CPU would
wait for them, of faster files beside them; "triton" of the kernels, which are imported only here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from cast_kernels.frontier import frontier
from cast_kernels.gumbel.reference import gumbel_choice
from cast_kernels.kv_commit import kv_commit
from cast_kernels.kv_write.indexed import kv_write
from cast_kernels.log_softmax_topk.selected import log_softmax_topk as selected
from cast_kernels.norm_linear import norm_linear
from cast_kernels.tree_accept import tree_accept
from cast_kernels.tree_attention import AttentionPlan, SequenceRows, tree_attention

NAMES: Final = ("auto", "torch", "triton")


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of every operation.

    `plan` lays out the rows of a step for `tree_attention`: rows, device. `kv_write` takes keys and
    values in one tensor, [N, 2, K, D].
    `is_static`: attention reads a `PagedBatch`, arrays of fixed shape and
    place, and slots of -1 are written nowhere; so steps can be padded and captured. `max_moves`: of
    one sequence in one call of `kv_commit`.
    """

    name: str
    is_static: bool
    max_moves: int
    plan: Callable[[Sequence[SequenceRows], torch.device], Any]
    tree_attention: Callable[..., Tensor]
    kv_write: Callable[..., None]
    kv_commit: Callable[..., None]
    gumbel_choice: Callable[..., tuple[Tensor, Tensor]]
    tree_accept: Callable[..., tuple[Tensor, Tensor, Tensor]]
    log_softmax_topk: Callable[..., tuple[Tensor, Tensor]]
    norm_linear: Callable[..., Tensor]
    frontier: Callable[..., tuple[Tensor, Tensor]]


TORCH: Final = Backend(
    name="torch",
    is_static=False,
    max_moves=2**31,
    plan=AttentionPlan,
    tree_attention=tree_attention,
    kv_write=kv_write,
    kv_commit=kv_commit,
    gumbel_choice=gumbel_choice,
    tree_accept=tree_accept,
    log_softmax_topk=selected,
    norm_linear=norm_linear,
    frontier=frontier,
)


def choose_backend(device: torch.device, wanted: str = "auto") -> Backend:
    """Triton on a CUDA device, torch elsewhere, unless `wanted` names one of them.

    Raises `ValueError`, a sentence, where the wanted one cannot run.
    """
    if wanted not in NAMES:
        raise ValueError(f"Kernels {wanted!r} are unknown; choose one of {', '.join(NAMES)}.")
    if wanted == "torch" or (wanted == "auto" and device.type != "cuda"):
        return TORCH
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "Triton's kernels run on a CPU only in its interpreter, thousands of times slower, for "
            "tests: set TRITON_INTERPRET=1, or leave the kernels to auto."
        )
    return triton_backend()


def triton_backend() -> Backend:
    """Raises `ValueError` if Triton is not installed."""
    try:
        from cast_kernels.frontier import kernel as frontier_kernel
        from cast_kernels.gumbel import kernel as gumbel_kernel
        from cast_kernels.kv_commit import kernel as kv_commit_kernel
        from cast_kernels.kv_write import kernel as kv_write_kernel
        from cast_kernels.log_softmax_topk import kernel as topk_kernel
        from cast_kernels.norm_linear import kernel as norm_linear_kernel
        from cast_kernels.tree_accept import kernel as tree_accept_kernel
        from cast_kernels.tree_attention import kernel as tree_attention_kernel
        from cast_kernels.tree_attention.paged import PagedBatch
    except ImportError as cause:
        raise ValueError(
            f"Triton is not installed ({cause}): pip install triton, or choose the kernels torch."
        ) from cause

    def plan(rows: Sequence[SequenceRows], device: torch.device) -> PagedBatch:
        return PagedBatch.from_rows(rows, 1, device)  # pages of one slot may lie anywhere

    def log_softmax_topk(logits_NV: Tensor, k: int) -> tuple[Tensor, Tensor]:
        chosen = topk_kernel.log_softmax_topk if k <= topk_kernel.MAX_K else selected
        return chosen(logits_NV, k)

    def kv_write(kv_cache_S2KD: Tensor, kv_N2KD: Tensor, slot_N: Tensor) -> None:
        kv_write_kernel.kv_write(kv_cache_S2KD, kv_N2KD[:, 0], kv_N2KD[:, 1], slot_N)

    return Backend(
        name="triton",
        is_static=True,
        max_moves=kv_commit_kernel.MAX_MOVES,
        plan=plan,
        tree_attention=tree_attention_kernel.tree_attention,
        kv_write=kv_write,
        kv_commit=kv_commit_kernel.kv_commit,
        gumbel_choice=gumbel_kernel.gumbel_argmax,
        tree_accept=tree_accept_kernel.tree_accept,
        log_softmax_topk=log_softmax_topk,
        norm_linear=norm_linear_kernel.norm_linear,
        frontier=frontier_kernel.frontier,
    )
