"""Every operation of a backend against its reference, which runs on the CPU; for `doctor`.

Tensors are made on the CPU and sent to the device, so that both sides see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from cast_kernels.backend import TORCH, Backend
from cast_kernels.tree_attention import SequenceRows
from cast_kernels.tree_attention.fixed import FixedBatch, Size
from cast_kernels.tree_attention.paged import PagedBatch
from cast_kernels.tree_attention.reference import tree_attention_reference

PAGE: Final = 16
ROUNDING: Final = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
# (context tokens, rows of a chunk of a prompt or of a root, nodes of a tree behind the last)
RAGGED: Final = ((70, 1, 8), (5, 40, 0), (0, 1, 0), (17, 3, 66))
LONG: Final = ((3000, 1, 15), (900, 1, 0), (1, 1, 3))


@dataclass(frozen=True, slots=True)
class Finding:
    """`error` is relative, or the share of wrong entries where all have to be right; at most
    `most`. `failure` is what was raised instead."""

    name: str
    error: float
    most: float
    failure: str = ""

    @property
    def is_right(self) -> bool:
        return not self.failure and self.error <= self.most


def check_all(backend: Backend, device: torch.device) -> Iterator[Finding]:
    """One finding after the other; what raises is a finding too."""
    for name, check, most in _cases(device):
        try:
            yield Finding(name, check(backend, device), most)
        except Exception as error:  # noqa: BLE001 - a kernel that does not compile must not end it
            yield Finding(name, float("inf"), most, f"{type(error).__name__}: {error}")


Check = Callable[[Backend, torch.device], float]


def _cases(device: torch.device) -> Iterator[tuple[str, Check, float]]:
    """Small ones anywhere, and where kernels are compiled also such as models have."""
    is_fast = device.type == "cuda"
    for dtype in (torch.float32, torch.bfloat16):
        most, kind = ROUNDING[dtype], str(dtype).removeprefix("torch.")
        shapes = [("ragged", RAGGED, 16), *([("long", LONG, 128)] if is_fast else [])]
        for name, shape, head_dim in shapes:
            yield f"tree_attention {kind} {name}", _attention(shape, dtype, head_dim), most
        yield f"norm_linear {kind}", _norm_linear(dtype), most
        yield f"kv_write {kind}", _kv_write(dtype), 0.0
        yield f"kv_commit {kind}", _kv_commit(dtype), 0.0
    window = _attention(RAGGED, torch.float32, 16, window=9, softcap=5.0)
    yield "tree_attention window and softcap", window, ROUNDING[torch.float32]
    yield "tree_attention in fixed memory", _padded_attention, ROUNDING[torch.float32]
    yield "gumbel tokens", _gumbel(50_000 if is_fast else 1_500), 0.0
    yield "tree_accept", _tree_accept, 0.0
    yield "log_softmax_topk", _topk(30_000 if is_fast else 2_500), 0.0
    yield "frontier", _frontier, 0.0


def make_step(
    shape: Sequence[tuple[int, int, int]], dtype: torch.dtype, head_dim: int
) -> tuple[Tensor, Tensor, list[SequenceRows]]:
    """Queries of four heads, a cache of two in shuffled pages, NaN wherever nothing was written,
    and rows with random trees."""
    random = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    needed = [-(-sum(one) // PAGE) for one in shape]
    pages = random.permutation(sum(needed) + 2)
    cache_S2KD = torch.full((PAGE * len(pages), 2, 2, head_dim), torch.nan)
    rows: list[SequenceRows] = []
    for one, own in zip(shape, np.split(pages, np.cumsum(needed))[:-1], strict=True):
        context, chunk, nodes = one
        slots = (own[:, None] * PAGE + np.arange(PAGE)).reshape(-1)[: sum(one)].astype(np.int64)
        cache_S2KD[slots] = torch.randn((len(slots), 2, 2, head_dim), generator=generator)
        parents = [*range(-1, chunk - 1)]
        parents += [int(random.integers(chunk - 1, row)) for row in range(chunk, chunk + nodes)]
        rows.append(SequenceRows(slots, *_tree(parents)))
        assert context == rows[-1].num_keys - rows[-1].num_rows
    num_rows = sum(one.num_rows for one in rows)
    q_NHD = torch.randn((num_rows, 4, head_dim), generator=generator)
    return q_NHD.to(dtype), cache_S2KD.to(dtype), rows


def _tree(parents: Sequence[int]) -> tuple[Any, Any]:
    """Who sees whom, and depths."""
    mask_RR = np.eye(len(parents), dtype=np.bool_)
    depths_R = np.zeros(len(parents), np.int64)
    for row, parent in enumerate(parents):
        if parent >= 0:
            mask_RR[row] |= mask_RR[parent]
            depths_R[row] = depths_R[parent] + 1
    return mask_RR, depths_R


def _distance(out: Tensor, right: Tensor) -> float:
    out, right = out.cpu().double(), right.cpu().double()
    return float((out - right).norm() / right.norm())


def _share_wrong(out: Tensor, right: Tensor) -> float:
    out, right = out.cpu(), right.cpu()
    assert (out.shape, out.dtype) == (right.shape, right.dtype), (out, right)
    return float((out != right).float().mean())


def _attention(
    shape: Sequence[tuple[int, int, int]], dtype: torch.dtype, head_dim: int, **options: Any
) -> Check:
    def check(backend: Backend, device: torch.device) -> float:
        q_NHD, cache_S2KD, rows = make_step(shape, dtype, head_dim)
        args = {"scale": head_dim**-0.5} | options
        right = tree_attention_reference(q_NHD.double(), cache_S2KD, rows, **args)
        q_NHD, cache_S2KD = q_NHD.to(device), cache_S2KD.to(device)
        batch = PagedBatch.from_rows(rows, PAGE, device)
        loose = backend.tree_attention(q_NHD, cache_S2KD, backend.plan(rows, dtype, device), **args)
        paged = (
            backend.tree_attention(q_NHD, cache_S2KD, batch, **args) if backend.is_static else loose
        )
        return max(_distance(loose, right), _distance(paged, right))

    return check


def _padded_attention(backend: Backend, device: torch.device) -> float:
    """In memory that a larger step has been in, padded; padding comes back as it is."""
    if not backend.is_static:
        return 0.0
    size = Size(rows=160, longest=160, sequences=5, pages=8, words=3)
    fixed = FixedBatch(size, PAGE, device, {})
    worst = 0.0
    for shape in (RAGGED, RAGGED[:1]):
        q_NHD, cache_S2KD, rows = make_step(shape, torch.float32, 16)
        right = tree_attention_reference(q_NHD.double(), cache_S2KD, rows, scale=0.25)
        fixed.wait()
        fixed.send(rows)
        padded = torch.cat([q_NHD, torch.ones(160 - len(q_NHD), 4, 16)]).to(device)
        out = backend.tree_attention(
            padded, cache_S2KD.to(device), fixed.batch(size), scale=0.25
        ).cpu()
        worst = max(worst, _distance(out[: len(q_NHD)], right))
        worst = max(worst, _share_wrong(out[len(q_NHD) :], padded[len(q_NHD) :]))
    return worst


def _norm_linear(dtype: torch.dtype) -> Check:
    def check(backend: Backend, device: torch.device) -> float:
        generator = torch.Generator().manual_seed(0)
        x_NF = torch.randn((9, 300), generator=generator).to(dtype)
        weight_OF = torch.randn((70, 300), generator=generator).to(dtype)
        right = TORCH.norm_linear(x_NF, weight_OF, 1e-6, 3)
        out = backend.norm_linear(x_NF.to(device), weight_OF.to(device), 1e-6, 3)
        return _distance(out, right)

    return check


def _kv_write(dtype: torch.dtype) -> Check:
    def check(backend: Backend, device: torch.device) -> float:
        generator = torch.Generator().manual_seed(0)
        right = torch.zeros((40, 2, 2, 24), dtype=dtype)
        kv_N2KD = torch.randn((9, 2, 2, 24), generator=generator).to(dtype)
        slot_N = torch.randperm(40, generator=generator)[:9]
        out = right.to(device)
        if backend.is_static:
            backend.kv_write(out, kv_N2KD.to(device), torch.full_like(slot_N, -1).to(device))
        backend.kv_write(out, kv_N2KD.to(device), slot_N.to(device))
        TORCH.kv_write(right, kv_N2KD, slot_N)
        return _share_wrong(out, right)

    return check


def _kv_commit(dtype: torch.dtype) -> Check:
    def check(backend: Backend, device: torch.device) -> float:
        generator = torch.Generator().manual_seed(0)
        right = torch.randn((3, 90, 2, 2, 24), generator=generator).to(dtype)
        chain = torch.randperm(90, generator=generator)[:42].view(2, 21)
        source, target = chain[:, :-1].clone(), chain[:, 1:].clone()  # each overwrites the next
        source[1, -4:] = -1
        out = right.to(device)
        backend.kv_commit(out, source.to(device), target.to(device))
        TORCH.kv_commit(right, source, target)
        return _share_wrong(out, right)

    return check


def _gumbel(vocabulary: int) -> Check:
    def check(backend: Backend, device: torch.device) -> float:
        generator = torch.Generator().manual_seed(0)
        scores_RV = torch.randn((8, vocabulary), generator=generator) * 3
        scores_RV[1] = 0.0  # nothing but noise
        scores_RV[:, ::7] = -torch.inf
        seed_R = torch.randint(-(2**63), 2**63 - 1, (8,), generator=generator)
        index_R = torch.randint(0, 2**33, (8,), generator=generator)
        is_greedy_R = torch.arange(8) % 3 == 2
        args = (scores_RV, seed_R, index_R, is_greedy_R)
        right, right_log_prob = TORCH.gumbel_choice(*args)
        out, log_prob = backend.gumbel_choice(*(one.to(device) for one in args))
        torch.testing.assert_close(log_prob.cpu(), right_log_prob, atol=1e-4, rtol=1e-4)
        return _share_wrong(out, right)

    return check


def _tree_accept(backend: Backend, device: torch.device) -> float:
    generator = torch.Generator().manual_seed(0)
    sizes = (33, 1, 0, 7, 64)
    parents = [
        int(torch.randint(min(row, 4), (), generator=generator)) if row else -1
        for size in sizes
        for row in range(size)
    ]
    chosen_N, token_N = torch.randint(3, (2, sum(sizes)), generator=generator).unbind(0)
    cu_rows_B1 = torch.tensor([0, *sizes]).cumsum(0).int()
    args = (chosen_N, token_N, torch.tensor(parents, dtype=torch.int32), cu_rows_B1)
    right = TORCH.tree_accept(*args, 64, 12)
    out = backend.tree_accept(*(one.to(device) for one in args), 64, 12)
    return max(_share_wrong(one, other) for one, other in zip(out, right, strict=True))


def _topk(vocabulary: int) -> Check:
    def check(backend: Backend, device: torch.device) -> float:
        generator = torch.Generator().manual_seed(0)
        # No two alike: the CPU's own selection leaves their order open.
        logits_NV = torch.stack(
            [torch.randperm(vocabulary, generator=generator) for _ in range(5)]
        ) * (20 / vocabulary)
        worst = 0.0
        for count in (1, 8, 16, 64):
            right = TORCH.log_softmax_topk(logits_NV, count)
            out = backend.log_softmax_topk(logits_NV.to(device), count)
            torch.testing.assert_close(out[0].cpu(), right[0], atol=1e-4, rtol=1e-4)
            worst = max(worst, _share_wrong(out[1], right[1]))
        return worst

    return check


def _frontier(backend: Backend, device: torch.device) -> float:
    generator = torch.Generator().manual_seed(0)
    log_prob_BC = -torch.randint(0, 9, (7, 40), generator=generator).float()
    log_prob_BC[torch.rand((7, 40), generator=generator) < 0.3] = -torch.inf
    log_weight_B = torch.randn(7, generator=generator)
    worst = 0.0
    for count in (1, 20, 300):
        right = TORCH.frontier(log_prob_BC, log_weight_B, count)
        out = backend.frontier(log_prob_BC.to(device), log_weight_B.to(device), count)
        worst = max(worst, *(_share_wrong(a, b) for a, b in zip(out, right, strict=True)))
    return worst
