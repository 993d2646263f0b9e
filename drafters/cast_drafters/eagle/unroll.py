"""Trains a head on what it will meet: its own hidden states in place of the target's.

"Training-time test" (EAGLE-3, Li et al. 2025): step 0 reads the target's hidden state at position
i, step s the head's own output of step s - 1, always with the true next token beside it. A step
attends to the step-0 keys up to i, and to the keys of its own chain, steps 1 to s, at i alone: just
what drafting s tokens behind position i would see.

Shape suffixes: N rows of several sequences side by side, A those of them that are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cast_drafters.eagle.head import EagleHead, KeyValues


@dataclass(frozen=True, slots=True)
class Branches:
    """What the head itself said behind some rows, and what the target thought of it.

    Row starts_A[a], step s (from 1 on) reads tokens_AS[a, s - 1] and is to predict what the target
    makes of its last state there, after the final norm: finals_ASE[a, s - 1].
    """

    starts_A: Tensor
    tokens_AS: Tensor
    finals_ASE: Tensor


@dataclass(frozen=True, slots=True)
class Piece:
    """One sequence of T tokens.

    features_TF: the target's tapped hidden states side by side. final_TE: its last hidden state
    after the final norm, from which its own logits come. Rows from `first_label` on predict tokens
    of the answer: row i, step s predicts token i + 2 + s. With `branches`, only their rows count,
    and from step 1 on they follow the head's own tokens.
    """

    token_ids_T: Tensor
    features_TF: Tensor
    final_TE: Tensor
    first_label: int
    branches: Branches | None = None

    @property
    def num_rows(self) -> int:
        return len(self.token_ids_T) - 2

    def starts(self) -> Tensor:
        """The rows that are trained on, [A]."""
        if self.branches is not None:
            return self.branches.starts_A
        return torch.arange(min(self.first_label, self.num_rows), self.num_rows)

    def tokens(self, step: int) -> Tensor:
        """What the rows read beside their own output at a step from 1 on, [A]."""
        if self.branches is not None:
            return self.branches.tokens_AS[:, step - 1]
        return self.token_ids_T[(self.starts() + 1 + step).clamp(max=self.num_rows + 1)]

    def has_label(self, step: int) -> Tensor:
        """Bool [A]."""
        if self.branches is not None:
            known = 1 <= step <= self.branches.tokens_AS.shape[1]
            return torch.full((len(self.branches.starts_A),), known)
        return self.starts() + step < self.num_rows

    def labels(self, step: int) -> Tensor:
        """The target's states of the rows that have a label, [., E]."""
        if self.branches is not None:
            return self.branches.finals_ASE[self.has_label(step), step - 1]
        return self.final_TE[(self.starts() + 1 + step)[self.has_label(step)]]


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
    losses: list[StepLoss] = []
    for step, logits_AV in enumerate(run(head, embedding_VE, pieces, num_steps)):
        has_label_A = torch.cat([one.has_label(step) for one in pieces])
        labels = torch.cat([one.labels(step) for one in pieces])
        losses.append(_loss(logits_AV[has_label_A], labels, target_rows_VE))
    return losses


def run(
    head: EagleHead,
    embedding_VE: Tensor,
    pieces: Sequence[Piece],
    num_steps: int,
    choose: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Tensor]:
    """Logits [A, V] of all pieces' rows, one step after the other.

    With `choose`, rows read what it makes of the logits of the step before instead of the pieces'
    own tokens.
    """
    sizes = [one.num_rows for one in pieces]
    tokens_N = torch.cat([one.token_ids_T[1 : n + 1] for one, n in zip(pieces, sizes, strict=True)])
    features = torch.cat([one.features_TF[:n] for one, n in zip(pieces, sizes, strict=True)])
    positions_N = torch.cat([torch.arange(n) for n in sizes])
    hidden_NH = head.fc(features)
    q_NHD, kv = head.begin(F.embedding(tokens_N, embedding_VE), hidden_NH, positions_N)
    hidden_NH = head.end(hidden_NH, _attend_causally(q_NHD, kv, sizes))

    bounds = torch.tensor([0, *sizes]).cumsum(0).tolist()
    starts = [one.starts() for one in pieces]
    first_keys = [
        KeyValues(kv.k_NKD[b : b + n], kv.v_NKD[b : b + n])
        for b, n in zip(bounds, sizes, strict=False)
    ]
    owner_A = torch.cat([torch.full((len(one),), i) for i, one in enumerate(starts)])
    local_A = torch.cat(starts)
    hidden_AH = hidden_NH[local_A + torch.tensor(bounds)[owner_A]]
    logits_AV = head.logits(hidden_AH)
    yield logits_AV
    chain: list[KeyValues] = []
    for step in range(1, num_steps):
        if choose is not None:
            token_A = choose(logits_AV)
        else:
            token_A = torch.cat([one.tokens(step) for one in pieces])
        embedded = F.embedding(token_A, embedding_VE)
        q_AHD, own = head.begin(embedded, hidden_AH, local_A + step)
        chain.append(own)
        attended = _attend_chain(q_AHD, first_keys, chain, owner_A, local_A)
        hidden_AH = head.end(hidden_AH, attended)
        logits_AV = head.logits(hidden_AH)
        yield logits_AV


def _loss(logits_AV: Tensor, final_AE: Tensor, target_rows_VE: Tensor) -> StepLoss:
    if not len(logits_AV):
        return StepLoss(logits_AV.sum(), 0.0, 0)
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
