"""The unrolled training loss against drafting simulated row by row in plain formulas."""

from __future__ import annotations

import plain_head as plain
import pytest
import torch

from cast_drafters.eagle.head import EagleHead
from cast_drafters.eagle.unroll import Piece, unroll

CONFIG = plain.config(hidden_size=plain.WIDTH, head_dim=6)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return plain.weights(CONFIG)


@pytest.fixture(scope="module")
def head(tensors) -> EagleHead:
    head = EagleHead(CONFIG)
    own = {name: t for name, t in tensors.items() if name in head.state_dict()}
    head.load_state_dict(own)  # strict: every parameter has a canonical name
    return head


def piece(length: int, first_label: int, seed: int) -> Piece:
    generator = torch.Generator().manual_seed(seed)
    return Piece(
        token_ids_T=torch.randint(plain.VOCAB, (length,), generator=generator),
        features_TF=torch.randn(length - 1, 3 * plain.WIDTH, generator=generator),
        final_TE=torch.randn(length - 1, plain.WIDTH, generator=generator),
        first_label=first_label,
    )


def simulate(tensors, target_rows, pieces, num_steps):
    """Cross-entropies and agreements of every step, by drafting from every position in turn."""
    right = plain.Plain(CONFIG, tensors)
    steps: list[list[tuple[float, bool]]] = [[] for _ in range(num_steps)]
    for one in pieces:
        size = len(one.token_ids_T) - 2
        hidden = right.fuse(one.features_TF[:size].split(plain.WIDTH, -1))
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        chain = right.forward(one.token_ids_T[1 : size + 1], hidden, torch.arange(size), causal)
        for i in range(one.first_label, size):
            states, out = [], chain[i]
            for step in range(num_steps):
                if i + step >= size:
                    break
                if step:
                    states.append(out)
                    rows = torch.arange(i + 1 + step)
                    tokens = one.token_ids_T[rows + 1]
                    inputs = torch.cat([hidden[: i + 1], torch.stack(states)])
                    sees = torch.ones(len(rows), len(rows), dtype=torch.bool).tril()
                    out = right.forward(tokens, inputs, rows, sees)[-1]
                target = (target_rows @ one.final_TE[i + 1 + step]).double()
                log_probs = right.log_probs(out)
                loss = -(target.softmax(-1) * log_probs).sum().item()
                steps[step].append((loss, bool(target.argmax() == log_probs.argmax())))
    return steps


def test_equals_drafting_from_every_position(head, tensors) -> None:
    torch.manual_seed(5)
    target_rows = torch.randn(CONFIG.draft_vocab_size, plain.WIDTH)
    pieces = [piece(9, 2, 0), piece(4, 0, 1), piece(12, 7, 2), piece(5, 3, 3)]
    embedding = tensors["embed_tokens.weight"]
    got = unroll(head, embedding, target_rows, pieces, 4)
    expected = simulate(tensors, target_rows, pieces, 4)
    for one, right in zip(got, expected, strict=True):
        assert one.count == len(right)
        assert one.loss.item() == pytest.approx(sum(x for x, _ in right) / len(right), rel=1e-5)
        assert one.agreement == pytest.approx(sum(a for _, a in right) / len(right), abs=1e-6)


def test_gradients_reach_every_parameter(head, tensors) -> None:
    target_rows = torch.randn(CONFIG.draft_vocab_size, plain.WIDTH)
    losses = unroll(head, tensors["embed_tokens.weight"], target_rows, [piece(9, 2, 0)], 3)
    head.zero_grad()
    sum(one.loss for one in losses).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
