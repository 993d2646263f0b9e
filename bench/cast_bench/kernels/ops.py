"""Every operation: its work on paper, and arguments to time it with, both of the same shape.

A new one is a function here and a line in `OPS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from cast_bench.kernels.baselines import attention_baselines
from cast_bench.kernels.shapes import DEPTH, TAPS, TOP, ModelShape, Step
from cast_kernels import work
from cast_kernels.frontier import frontier
from cast_kernels.frontier import parity as frontier_parity
from cast_kernels.gumbel import gumbel_argmax
from cast_kernels.gumbel import parity as gumbel_parity
from cast_kernels.kv_commit import kv_commit
from cast_kernels.kv_commit import parity as kv_commit_parity
from cast_kernels.kv_write import kv_write
from cast_kernels.kv_write import parity as kv_write_parity
from cast_kernels.linear import PackedLinear, WideLinear
from cast_kernels.linear import parity as linear_parity
from cast_kernels.log_softmax_topk import log_softmax_topk
from cast_kernels.log_softmax_topk import parity as topk_parity
from cast_kernels.norm_linear import fold_norm, norm_linear
from cast_kernels.norm_linear import parity as norm_linear_parity
from cast_kernels.tree_accept import parity as tree_accept_parity
from cast_kernels.tree_accept import tree_accept
from cast_kernels.tree_attention import AttentionPlan, tree_attention
from cast_kernels.tree_attention import parity as attention_parity
from cast_kernels.tree_attention.paged import PagedBatch
from cast_kernels.work import Work

DTYPE: Final = torch.bfloat16  # of weights, keys and values; logits are float32, as they are served
PAGE: Final = 16
TRITON: Final = "triton"
_EPS: Final = 1e-6

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Case:
    """Arguments on a device. `check` compares a function with what is right for them, and raises
    `MismatchError`. `backends` are functions of the arguments, or where to import them from;
    `baselines` are torch's own."""

    arguments: tuple[Any, ...]
    check: Callable[[Function], None]
    backends: Mapping[str, Function | str]
    baselines: Mapping[str, Function] = field(default_factory=lambda: MappingProxyType({}))

    def function(self, name: str) -> Function:
        """Of a backend or baseline. What a backend imports, it imports now."""
        found = self.backends[name] if name in self.backends else self.baselines[name]
        if not isinstance(found, str):
            return found
        module, _, attribute = found.partition(":")
        function: Function = getattr(import_module(module), attribute)
        return function


@dataclass(frozen=True, slots=True)
class Op:
    """`shape` in words. `make` builds the case on a device, which takes memory."""

    name: str
    shape: str
    work: Work
    make: Callable[[torch.device], Case]


def ops(model: ModelShape, step: Step) -> list[Op]:
    """All of them at one shape."""
    return [make(model, step) for make in OPS]


def _tree_attention(model: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        q_NHD, cache_S2KD, rows = attention_parity.sample(
            [(step.context, 1, step.rows - 1)] * step.batch, dtype=DTYPE, page=PAGE, **sizes
        )
        q_NHD, cache_S2KD = q_NHD.to(device), cache_S2KD.to(device)
        scale = model.head_dim**-0.5
        plan = AttentionPlan(rows, DTYPE, device)
        paged = PagedBatch.from_rows(rows, PAGE, device)

        def triton(q_NHD: Tensor, cache_S2KD: Tensor) -> Tensor:
            kernel = import_module("cast_kernels.tree_attention.kernel")
            out_NHD: Tensor = kernel.tree_attention(q_NHD, cache_S2KD, paged, scale=scale)
            return out_NHD

        return Case(
            (q_NHD, cache_S2KD),
            lambda function: attention_parity.check(function, q_NHD, cache_S2KD, rows, scale=scale),
            {"sdpa": partial(tree_attention, plan=plan, scale=scale), TRITON: triton},
            attention_baselines(cache_S2KD, rows, scale),
        )

    sizes = {"key_heads": model.key_heads, "group": model.group, "head_dim": model.head_dim}
    sequences = [(step.rows, step.context)] * step.batch
    return Op(
        "tree_attention",
        f"{step.batch} by {step.rows} rows, context {step.context}, heads {model.query_heads}/"
        f"{model.key_heads} by {model.head_dim}, one layer",
        work.tree_attention(sequences, **sizes, width=DTYPE.itemsize, page=PAGE),
        make,
    )


def _kv_write(model: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        slots = step.batch * (step.context + step.rows)
        sample = kv_write_parity.sample(step.all_rows, slots, heads, head_dim, DTYPE)
        return _case(_to(device, sample), kv_write_parity.check, kv_write)

    heads, head_dim = model.key_heads, model.head_dim
    return Op(
        "kv_write",
        f"{step.all_rows} rows, {heads} by {head_dim}, one layer",
        work.kv_write(step.all_rows, heads, head_dim),
        make,
    )


def _kv_commit(model: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        sample = kv_commit_parity.sample(step.batch, DEPTH, layers, heads, head_dim, DTYPE)
        return _case(_to(device, sample), kv_commit_parity.check, kv_commit)

    layers, heads, head_dim = model.layers, model.key_heads, model.head_dim
    return Op(
        "kv_commit",
        f"{step.batch} by {DEPTH} moves, {heads} by {head_dim}, {layers} layers",
        work.kv_commit(step.batch * DEPTH, layers, heads, head_dim),
        make,
    )


def _tree_accept(_: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        sample = tree_accept_parity.sample([step.rows] * step.batch)
        arguments = (*_to(device, sample), step.rows, DEPTH)
        return _case(arguments, tree_accept_parity.check, tree_accept)

    return Op(
        "tree_accept",
        f"{step.batch} by {step.rows} rows, depth {DEPTH}",
        work.tree_accept(step.all_rows, step.batch, DEPTH),
        make,
    )


def _gumbel(model: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        arguments = _to(device, gumbel_parity.sample(step.all_rows, model.vocabulary))
        return _case(arguments, gumbel_parity.check, gumbel_argmax)

    return Op(
        "gumbel_argmax",
        f"{step.all_rows} by {model.vocabulary} float32",
        work.gumbel_argmax(step.all_rows, model.vocabulary),
        make,
    )


def _norm_linear(model: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        sample = norm_linear_parity.sample(step.all_rows, features, model.hidden, DTYPE)
        x_NF, weight_OF, norm_F = _to(device, sample)
        return Case(
            (x_NF, fold_norm(weight_OF, norm_F), _EPS, TAPS),
            lambda function: norm_linear_parity.check(
                function, x_NF, weight_OF, norm_F, _EPS, TAPS
            ),
            {"reference": norm_linear, TRITON: _kernel(norm_linear)},
        )

    features = TAPS * model.hidden
    return Op(
        "norm_linear",
        f"{step.all_rows} by {features} → {model.hidden}, {TAPS} norms",
        work.norm_linear(step.all_rows, features, model.hidden),
        make,
    )


def _topk(model: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        logits_NV = topk_parity.sample(step.all_rows, model.draft_vocabulary).to(device)
        return _case((logits_NV, TOP), topk_parity.check, log_softmax_topk)

    return Op(
        "log_softmax_topk",
        f"{step.all_rows} by {model.draft_vocabulary} float32, best {TOP}",
        work.log_softmax_topk(step.all_rows, model.draft_vocabulary, TOP),
        make,
    )


def _frontier(_: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        arguments = (*_to(device, frontier_parity.sample(step.batch, candidates)), step.all_rows)
        return _case(arguments, frontier_parity.check, frontier)

    candidates = step.rows * TOP
    return Op(
        "frontier",
        f"{step.batch} by {candidates} candidates, {step.all_rows} taken",
        work.frontier(step.batch, candidates, step.all_rows),
        make,
    )


def _packed_linear(model: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        sample = linear_parity.sample(step.all_rows, model.hidden, outputs, DTYPE)
        weight_OE, x_NE = _to(device, sample)
        return Case(
            (x_NE,),
            lambda layer: linear_parity.check(layer, weight_OE, None, x_NE),
            {"packed": PackedLinear(weight_OE)},
            {"torch-linear": partial(torch.nn.functional.linear, weight=weight_OE)},
        )

    outputs = 2 * model.inner
    return Op(
        "packed_linear",
        f"{step.all_rows} by {model.hidden} → {outputs} (gate and up)",
        work.linear(step.all_rows, model.hidden, outputs),
        make,
    )


def _wide_linear(model: ModelShape, step: Step) -> Op:
    def make(device: torch.device) -> Case:
        sample = linear_parity.sample(step.all_rows, model.hidden, model.vocabulary, DTYPE)
        weight_OE, x_NE = _to(device, sample)
        x_NE = x_NE.float()
        return Case(
            (x_NE,),
            lambda layer: linear_parity.check_wide(layer, weight_OE, None, x_NE),
            {"wide": WideLinear(weight_OE)},
        )

    return Op(
        "wide_linear",
        f"{step.all_rows} by {model.hidden} → {model.vocabulary} (logits)",
        work.linear(step.all_rows, model.hidden, model.vocabulary, width=4, out_width=4),
        make,
    )


OPS: Final = (
    _tree_attention,
    _kv_write,
    _kv_commit,
    _tree_accept,
    _gumbel,
    _norm_linear,
    _topk,
    _frontier,
    _packed_linear,
    _wide_linear,
)


def _case(arguments: tuple[Any, ...], check: Function, reference: Function) -> Case:
    """Of an op whose check and backends all take the same arguments."""
    return Case(
        arguments,
        lambda function: check(function, *arguments),
        {"reference": reference, TRITON: _kernel(reference)},
    )


def _kernel(reference: Function) -> str:
    """Where the kernel beside a reference is, which is called the same."""
    return f"{reference.__module__.rpartition('.')[0]}.kernel:{reference.__name__}"


def _to(device: torch.device, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(one.to(device) for one in tensors)
