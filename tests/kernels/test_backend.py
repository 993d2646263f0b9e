"""Which kernels run where; and that both backends keep one contract, operation by operation."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from cast_kernels.backend import TORCH, choose_backend, triton_backend
from cast_kernels.tree_attention.parity import make_rows, relative_error

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_torch_on_a_cpu_and_triton_on_a_gpu_unless_told_otherwise() -> None:
    assert choose_backend(CPU) is TORCH
    assert choose_backend(CPU, "torch") is TORCH
    assert choose_backend(CUDA, "torch") is TORCH
    assert choose_backend(CUDA).name == "triton"
    assert choose_backend(CPU, "triton").name == "triton"


def test_what_cannot_run_is_a_sentence(monkeypatch) -> None:
    with pytest.raises(ValueError, match="'cuda' are unknown; choose one of auto, torch"):
        choose_backend(CPU, "cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="set TRITON_INTERPRET=1") as refusal:
        choose_backend(CPU, "triton")
    assert str(refusal.value).endswith(".")
    assert choose_backend(CUDA).name == "triton"


def test_every_operation_is_another_function() -> None:
    triton = triton_backend()
    shared = [f.name for f in fields(TORCH) if getattr(TORCH, f.name) is getattr(triton, f.name)]
    assert not shared


@pytest.mark.parametrize("backend", [TORCH, triton_backend()], ids=lambda one: one.name)
def test_keys_are_written_and_attended_through_one_contract(backend) -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    cache = torch.full((60, 2, 2, 16), torch.nan)
    slots = rng.permutation(60)
    rows = [make_rows(rng, slots[:20], 1, 5)[0], make_rows(rng, slots[20:29], 9, 0)[0]]
    new = np.concatenate([slots[14:20], slots[20:29]])
    cache[torch.from_numpy(slots[:14])] = torch.randn(14, 2, 2, 16)
    product = torch.randn(15, 8, 16)  # four heads of queries, two of keys and two of values
    backend.kv_write(cache, product[:, 4:].unflatten(1, (2, 2)), torch.from_numpy(new))
    torch.testing.assert_close(cache[torch.from_numpy(new), 1], product[:, 6:])
    plan = backend.plan(rows, torch.float32, CPU)
    out = backend.tree_attention(product[:, :4], cache, plan, scale=0.3)
    assert relative_error(out, product[:, :4], cache, rows, scale=0.3) < 1e-5


@pytest.mark.parametrize("k", [1, 7, 16, 40])
@pytest.mark.parametrize("backend", [TORCH, triton_backend()], ids=lambda one: one.name)
def test_the_likeliest_tokens_of_any_number(backend, k) -> None:
    torch.manual_seed(k)
    logits = torch.randn(3, 130)
    values, indices = backend.log_softmax_topk(logits, k)
    right = logits.double().log_softmax(-1).topk(k)
    assert torch.equal(indices, right.indices)
    torch.testing.assert_close(values.double(), right.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", [TORCH, triton_backend()], ids=lambda one: one.name)
def test_greedy_and_sampled_rows_side_by_side(backend) -> None:
    torch.manual_seed(0)
    scores = torch.randn(4, 300)
    seeds, positions = torch.arange(4), torch.tensor([5, 5, 9, 0])
    greedy = torch.tensor([True, False, True, False])
    tokens, log_probs = backend.gumbel_choice(scores, seeds, positions, greedy)
    expected, right = TORCH.gumbel_choice(scores, seeds, positions, greedy)
    assert torch.equal(tokens, expected)
    assert torch.equal(tokens[greedy], scores[greedy].argmax(-1))
    assert not torch.equal(tokens[~greedy], scores[~greedy].argmax(-1))
    torch.testing.assert_close(log_probs, right, atol=1e-5, rtol=1e-5)
