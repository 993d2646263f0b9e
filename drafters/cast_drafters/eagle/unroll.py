"""Trains a head on what it will meet: its own hidden states in place of the target's.

"Training-time test" (EAGLE-3, Li et al. 2025): step 0 reads the target's hidden state at position
i, step s the head's own output of step s - 1, always with the true next token beside it. A step
attends to the step-0 keys up to i, and to the keys of its own chain, steps 1 to s, at i alone: just
what drafting s tokens behind position i would see.

Shape suffixes: N rows of several sequences side by side, A those of them that are trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cast_drafters.eagle.head import EagleHead, KeyValues


@dataclass(frozen=True, slots=True)
class Piece:
    """One sequence of T tokens.

    features_TF: the target's tapped hidden states side by side. final_TE: its last hidden state
    after the final norm, from which its own logits come. Rows from `first_label` on predict tokens
    of the answer: row i, step s predicts token i + 2 + s.
    """

    token_ids_T: Tensor
    features_TF: Tensor
    final_TE: Tensor
    first_label: int


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Of one unrolled step: mean cross-entropy (natural log) and how often the head agreed."""

    loss: Tensor
    agreement: float
    count: int


def unroll(
    head: EagleHead,
    embedding_VE: Tensor,
    target_rows_VE: Tensor,
    pieces: Sequence[Piece],
    num_steps: int,
) -> list[StepLoss]:
    """Losses of steps 0 to num_steps - 1, the later ones over fewer rows.

    target_rows_VE: the target's output rows of the draft vocabulary.
    """
    sizes = [len(one.token_ids_T) - 2 for one in pieces]
    firsts = [min(one.first_label, size) for one, size in zip(pieces, sizes, strict=True)]
    features = torch.cat([one.features_TF[:n] for one, n in zip(pieces, sizes, strict=True)])
    tokens = torch.cat([one.token_ids_T[1 : n + 1] for one, n in zip(pieces, sizes, strict=True)])
    positions = torch.cat([torch.arange(n) for n in sizes])
    hidden_NH = head.fc(features)
    q_NHD, kv = head.begin(F.embedding(tokens, embedding_VE), hidden_NH, positions)
    attended = _attend_causally(q_NHD, kv, sizes)
    hidden_NH = head.end(hidden_NH, attended)

    bounds = torch.tensor([0, *sizes]).cumsum(0).tolist()
    rows = torch.cat(
        [torch.arange(b + f, b + n) for b, f, n in zip(bounds, firsts, sizes, strict=False)]
    )
    first_keys = [
        KeyValues(kv.k_NKD[b : b + n], kv.v_NKD[b : b + n])
        for b, n in zip(bounds, sizes, strict=False)
    ]
    owner = torch.cat(
        [torch.full((n - f,), i) for i, (f, n) in enumerate(zip(firsts, sizes, strict=True))]
    )
    local = positions[rows]
    length = torch.tensor(sizes)[owner]
    hidden_AH = hidden_NH[rows]
    all_tokens = torch.cat([one.token_ids_T for one in pieces])
    finals = torch.cat([one.final_TE for one in pieces])
    token_bounds = torch.tensor([0, *(len(one.token_ids_T) for one in pieces)]).cumsum(0)[owner]
    final_bounds = torch.tensor([0, *(len(one.final_TE) for one in pieces)]).cumsum(0)[owner]
    losses: list[StepLoss] = []
    chain: list[KeyValues] = []
    alive = torch.ones(len(rows), dtype=torch.bool)
    for step in range(num_steps):
        if step:
            token = all_tokens[token_bounds + (local + 1 + step).clamp(max=length + 1)]
            embedded = F.embedding(token, embedding_VE)
            q_AHD, own = head.begin(embedded, hidden_AH, local + step)
            chain.append(own)
            attended = _attend_chain(q_AHD, first_keys, chain, owner, local)
            hidden_AH = head.end(hidden_AH, attended)
        alive = local + step < length
        label_rows = (final_bounds + (local + 1 + step).clamp(max=length))[alive]
        losses.append(_loss(head.logits(hidden_AH[alive]), finals[label_rows], target_rows_VE))
    return losses


def _loss(logits_AV: Tensor, final_AE: Tensor, target_rows_VE: Tensor) -> StepLoss:
    with torch.no_grad():
        target_AV = F.linear(final_AE, target_rows_VE).float()
        probabilities_AV = target_AV.softmax(-1)
        agreement = (logits_AV.argmax(-1) == target_AV.argmax(-1)).float().mean().item()
    loss = -(probabilities_AV * logits_AV.float().log_softmax(-1)).sum(-1).mean()
    return StepLoss(loss, agreement, len(logits_AV))


def _attend_causally(q_NHD: Tensor, kv: KeyValues, sizes: Sequence[int]) -> Tensor:
    outs: list[Tensor] = []
    begin = 0
    for size in sizes:
        q_1HTD, k_1KTD, v_1KTD = (
            x[begin : begin + size].transpose(0, 1).unsqueeze(0)
            for x in (q_NHD, kv.k_NKD, kv.v_NKD)
        )
        out_1HTD = F.scaled_dot_product_attention(
            q_1HTD, k_1KTD, v_1KTD, is_causal=True, enable_gqa=True
        )
        outs.append(out_1HTD[0].transpose(0, 1))
        begin += size
    return torch.cat(outs)


def _attend_chain(
    q_AHD: Tensor,
    first_keys: Sequence[KeyValues],
    chain: Sequence[KeyValues],
    owner_A: Tensor,
    local_A: Tensor,
) -> Tensor:
    """Each row sees its sequence's first keys up to its own place, and its own chain."""
    num_rows, num_heads, head_dim = q_AHD.shape
    num_key_heads = first_keys[0].k_NKD.shape[1]
    q_AKGD = (q_AHD * head_dim**-0.5).unflatten(1, (num_key_heads, -1))
    own_AKGS = torch.stack([(q_AKGD * one.k_NKD.unsqueeze(2)).sum(-1) for one in chain], -1)
    outs: list[Tensor] = []
    begin = 0
    for index, first in enumerate(first_keys):
        count = int((owner_A == index).sum())
        if not count:
            continue
        rows = slice(begin, begin + count)
        score_KGAL = torch.einsum("akgd,lkd->kgal", q_AKGD[rows], first.k_NKD)
        hidden_AL = torch.arange(len(first.k_NKD)) > local_A[rows, None]
        score_KGAL = score_KGAL.float().masked_fill(hidden_AL, -torch.inf)
        own_KGAS = own_AKGS[rows].permute(1, 2, 0, 3).float()
        weight = torch.cat([score_KGAL, own_KGAS], -1).softmax(-1).to(q_AHD.dtype)
        context, own = weight[..., : len(first.k_NKD)], weight[..., len(first.k_NKD) :]
        out_AKGD = torch.einsum("kgal,lkd->akgd", context, first.v_NKD)
        for step, one in enumerate(chain):
            share_AKG1 = own[..., step].permute(2, 0, 1).unsqueeze(-1)
            out_AKGD = out_AKGD + share_AKG1 * one.v_NKD[rows].unsqueeze(2)
        outs.append(out_AKGD)
        begin += count
    return torch.cat(outs).reshape(num_rows, num_heads, head_dim)
