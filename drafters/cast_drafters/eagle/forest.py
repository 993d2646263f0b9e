"""The draft trees of a whole step while they grow on the device, and what of them is verified.

All candidates of all sequences lie in one row of arrays at fixed places. A level is the likeliest
of them that the head has not run, whoever they belong to. Nothing here depends on what a tensor
holds but through what it computes: it can be recorded as a graph, and it never waits.

Shape suffixes beyond docs/shapes.md: C candidates and, last of all, nobody, whom padding is written
to; U rows of one level; K children of a node; F candidates that the host knew; X int64 words of a
mask.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from cast_drafters.calibration_lookup import Lookup
from cast_drafters.eagle.served import HeadInputs, LevelInputs
from cast_kernels.backend import Backend
from cast_kernels.tree_attention.paged import WORD_BITS, PagedBatch

NOBODYS: Final = 2**31 - 1  # a sequence that no step has


@dataclass(frozen=True, slots=True)
class Ground:
    """What the host knows of a step before it begins; [B] by the sequences of the step.

    position_B: of the root's pair. context_B: int32, keys of the head before the tree. root_slot_B:
    where its state behind the root is. is_run_B: whether the root is run. mode_B: 1 where text is
    sampled, at temperature_B, which is 1 elsewhere. width_B, depth_B, size_B: the most children of
    a node, the greatest depth, the most nodes to verify. least_B: log-probability below which a
    path is of no use. weight_B: logarithm of what a token is worth. root_trust_B, trust_D: to be
    added to the head's log-probabilities at the root, and by depth.
    num_sequences, num_nodes: [1], of the step, and to verify in all. free_F: candidates that cost
    no pass, closed ones last.
    """

    position_B: Tensor
    context_B: Tensor
    root_slot_B: Tensor
    is_run_B: Tensor
    mode_B: Tensor
    temperature_B: Tensor
    width_B: Tensor
    depth_B: Tensor
    size_B: Tensor
    least_B: Tensor
    weight_B: Tensor
    root_trust_B: Tensor
    trust_D: Tensor
    num_sequences: Tensor
    num_nodes: Tensor
    lookup: Lookup
    free_F: Candidates


@dataclass(frozen=True, slots=True)
class Candidates:
    """As in `DraftTree`, but that parent -1 is the root of `sequence`. log_prob is that of the
    path, -inf where there is no candidate; source, rank and confidence are what it was calibrated
    by. Integers are int64, the rest float32."""

    token_C: Tensor
    parent_C: Tensor
    sequence_C: Tensor
    depth_C: Tensor
    source_C: Tensor
    rank_C: Tensor
    log_prob_C: Tensor
    confidence_C: Tensor

    @classmethod
    def none(cls, count: int, device: torch.device) -> Candidates:
        def make(dtype: torch.dtype) -> Tensor:
            return torch.zeros(count, dtype=dtype, device=device)

        dtypes = [torch.int64] * 6 + [torch.float32] * 2
        new = cls(*(make(dtype) for dtype in dtypes))
        new.log_prob_C.fill_(-torch.inf)
        return new

    def write(self, place_N: Tensor, others: Candidates) -> None:
        for field in fields(self):
            getattr(self, field.name).index_copy_(0, place_N, getattr(others, field.name))


@dataclass(frozen=True, slots=True)
class Forest:
    """slot_C: the head's scratch slot of a node that it has run, else -1; level_C: in which level,
    from 1 on; mask_CX: the rows of its tree that such a node sees, itself included. run_B: rows of
    each tree so far. count, used, level: [1], candidates, scratch slots and levels so far.
    page_BP: int32, slots of the head's keys, those of trees behind those of the context.
    """

    candidates: Candidates
    slot_C: Tensor
    level_C: Tensor
    mask_CX: Tensor
    run_B: Tensor
    count: Tensor
    used: Tensor
    level: Tensor
    page_BP: Tensor
    first_scratch: int
    num_scratch: int

    @classmethod
    def empty(
        cls, capacity: int, words: int, page_BP: Tensor, first_scratch: int, num_scratch: int
    ) -> Forest:
        device = page_BP.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return cls(
            Candidates.none(capacity + 1, device),
            slot_C=zeros(capacity + 1).fill_(-1),
            level_C=zeros(capacity + 1),
            mask_CX=zeros(capacity + 1, words),
            run_B=zeros(len(page_BP)),
            count=zeros(1),
            used=zeros(1),
            level=zeros(1),
            page_BP=page_BP,
            first_scratch=first_scratch,
            num_scratch=num_scratch,
        )

    @property
    def nobody(self) -> int:
        return len(self.slot_C) - 1

    def clear(self, ground: Ground) -> None:
        """A step begins, with what the host knows."""
        self.candidates.log_prob_C.fill_(-torch.inf)
        self.slot_C.fill_(-1)
        self.level_C.zero_()
        self.run_B.zero_()
        self.used.zero_()
        self.level.zero_()
        count = len(ground.free_F.token_C)
        self.candidates.write(torch.arange(count, device=self.slot_C.device), ground.free_F)
        self.count.fill_(count)

    def add_children(
        self, ground: Ground, parent_N: Tensor, sequence_N: Tensor, top_NK: tuple[Tensor, Tensor]
    ) -> None:
        """The head's likeliest followers of each parent: log-probabilities, and token ids.

        parent_N: -1 for roots, `nobody` where there is none.
        """
        log_q_NK, token_NK = top_NK
        children = log_q_NK.shape[1]
        rank_K = torch.arange(children, device=log_q_NK.device)
        at_root_N = parent_N < 0
        depth_N = self.candidates.depth_C[parent_N].where(~at_root_N, 0) + 1
        above_N = self.candidates.log_prob_C[parent_N].where(~at_root_N, 0.0)
        above_N = above_N.where(~at_root_N | ground.is_run_B[sequence_N], -torch.inf)
        trust_N = ground.trust_D[depth_N.clamp(max=len(ground.trust_D) - 1)]
        trust_N = ground.root_trust_B[sequence_N].where(at_root_N, trust_N)

        def spread(one_N: Tensor) -> Tensor:
            return one_N.repeat_interleave(children)

        sequence_C, depth_C = spread(sequence_N), spread(depth_N)
        rank_C = rank_K.repeat(len(above_N))
        confidence_C = (log_q_NK + trust_N[:, None]).flatten()
        log_prob_C = spread(above_N) + ground.lookup.log_probs(
            ground.mode_B[sequence_C], 0, depth_C, rank_C, confidence_C
        )
        is_of_use_C = rank_C < ground.width_B[sequence_C]
        is_of_use_C &= depth_C <= ground.depth_B[sequence_C]
        is_of_use_C &= log_prob_C >= ground.least_B[sequence_C]  # which NaN is not
        new = Candidates(
            token_NK.flatten(),
            spread(parent_N),
            sequence_C,
            depth_C,
            torch.zeros_like(depth_C),
            rank_C,
            log_prob_C.where(is_of_use_C, -torch.inf),
            confidence_C,
        )
        self._append(self._without_known(new, len(ground.free_F.token_C)))

    def _without_known(self, new: Candidates, count: int) -> Candidates:
        """Of a guess that the host has made as well, the likelier stays, in the host's place."""
        free = Candidates(*(getattr(self.candidates, f.name)[:count] for f in fields(Candidates)))
        is_same_CF = (
            (new.token_C[:, None] == free.token_C)
            & (new.parent_C[:, None] == free.parent_C)
            & (new.sequence_C[:, None] == free.sequence_C)
            & (free.log_prob_C > -torch.inf)
        )
        if count:
            rival_CF = new.log_prob_C[:, None].where(is_same_CF, -torch.inf)
            log_prob_F, which_F = rival_CF.max(0)
            is_likelier_F = log_prob_F > free.log_prob_C
            for name in ("source_C", "rank_C", "log_prob_C", "confidence_C"):
                mine_F = getattr(free, name)
                mine_F.copy_(getattr(new, name)[which_F].where(is_likelier_F, mine_F))
        log_prob_C = new.log_prob_C.masked_fill(is_same_CF.any(1), -torch.inf)
        return replace(new, log_prob_C=log_prob_C)

    def _append(self, new: Candidates) -> None:
        room = self.nobody - len(new.token_C)
        # The host sees to it that there is room; recording runs a level more often than that.
        place_N = self.count.clamp(max=room) + torch.arange(
            len(new.token_C), device=self.count.device
        )
        self.candidates.write(place_N, new)
        self.count.add_(len(new.token_C))

    def next_level(
        self, ground: Ground, rows: int, backend: Backend
    ) -> tuple[Tensor, Tensor, LevelInputs]:
        """The likeliest nodes that the head can run, their sequences, and the inputs for it.

        At most `rows`, by sequence; where there are fewer, the rest is `nobody`, of the last one.
        """
        batch, device = len(self.run_B), self.run_B.device
        node_U, sequence_U, number_U = self._pick(ground, rows, backend)
        is_real_U = node_U < self.nobody
        row_U, own_B = torch.arange(rows, device=device), torch.arange(batch, device=device)
        count_B = ((sequence_U == own_B[:, None]) & is_real_U).sum(1)
        parent_U = self.candidates.parent_C[node_U]
        is_child_U = (parent_U < 0) & is_real_U
        slot_U = self.first_scratch + self.used.clamp(max=self.num_scratch - rows) + row_U
        before_U = ground.root_slot_B[sequence_U].where(is_child_U, self.slot_C[parent_U])
        mask_UX = self.mask_CX[parent_U].masked_fill(is_child_U[:, None], 0)
        mask_UX = mask_UX | bits(number_U, self.mask_CX.shape[1])
        self.slot_C.index_copy_(0, node_U, slot_U)
        self.mask_CX.index_copy_(0, node_U, mask_UX)
        self.level_C.index_copy_(0, node_U, (self.level + 1).expand(rows))
        column_U = (ground.context_B[sequence_U] + number_U).where(
            is_real_U, self.page_BP.shape[1] - 1
        )
        self.page_BP.index_put_((sequence_U, column_U.long()), slot_U.int())
        self.run_B.add_(count_B)
        self.used.add_(rows)
        self.level.add_(1)
        inputs = HeadInputs(
            self.candidates.token_C[node_U],
            (ground.position_B[sequence_U] + self.candidates.depth_C[node_U]).where(is_real_U, 0),
            slot_U.where(is_real_U, -1),
            PagedBatch(
                cu_rows_B1=running_totals(count_B),
                cu_tree_B1=running_totals(self.run_B),
                context_B=ground.context_B,
                page_BP=self.page_BP,
                mask_NW=mask_UX,
                depth_T=torch.zeros(rows, dtype=torch.int32, device=device),
                page_size=1,
                max_rows=rows,
                max_context=self.page_BP.shape[1],
            ),
        )
        before_U = before_U.where(is_real_U, -1)
        return node_U, sequence_U, LevelInputs(inputs, before_U, None, inputs.slots_N)

    def _pick(self, ground: Ground, rows: int, backend: Backend) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes, their sequences, and their numbers among the rows of their trees."""
        mine, last = self.candidates, len(self.run_B) - 1
        has_state_C = (mine.parent_C < 0) | (self.slot_C[mine.parent_C] >= 0)
        is_open_C = (
            (self.slot_C < 0)
            & has_state_C
            & ground.is_run_B[mine.sequence_C]
            & (mine.depth_C < ground.depth_B[mine.sequence_C])
        )
        node_U = likeliest(mine, ground, is_open_C, rows, backend)
        is_real_U = node_U < self.nobody
        sequence_U = mine.sequence_C[node_U].where(is_real_U, last + 1)
        is_mate_UU = sequence_U[:, None] == sequence_U
        number_U = is_mate_UU.tril(-1).sum(1) + self.run_B[sequence_U.clamp(max=last)]
        # A mask has so many bits; who is left over may come with the next level, or not at all.
        has_bit_U = number_U < self.mask_CX.shape[1] * WORD_BITS
        is_real_U = is_real_U & has_bit_U
        order_U = sequence_U.where(is_real_U, last + 1).argsort(stable=True)
        node_U = node_U.where(is_real_U, self.nobody)[order_U]
        return (
            node_U,
            sequence_U.clamp(max=last)[order_U],
            number_U.where(is_real_U, 0)[order_U],
        )

    def report(self) -> Tensor:
        """All that the host wants to know of the candidates, int32 [9, C]: integers as they are,
        then the bits of log-probabilities and confidences."""
        mine = self.candidates
        integers = [mine.token_C, mine.parent_C, mine.sequence_C, mine.depth_C, mine.source_C]
        integers_7C = torch.stack([*integers, mine.rank_C, self.level_C]).int()
        floats_2C = torch.stack([mine.log_prob_C, mine.confidence_C])
        return torch.cat([integers_7C, floats_2C.view(torch.int32)])

    def harvest(self, ground: Ground, rows: int, backend: Backend) -> Harvest:
        """The nodes to verify: the worthiest of all that their sequences may have, at most
        `ground.num_nodes`, with those above them, as these are no less worthy and come before."""
        mine, batch = self.candidates, len(self.run_B)
        worth_C = mine.log_prob_C + ground.weight_B[mine.sequence_C]
        order_C = worth_C.argsort(descending=True, stable=True)
        grouped_C = order_C[mine.sequence_C[order_C].argsort(stable=True)]
        sequence_C = mine.sequence_C[grouped_C]
        begin_B = (mine.sequence_C == torch.arange(batch, device=order_C.device)[:, None]).sum(1)
        begin_B = begin_B.cumsum(0) - begin_B
        place_C = torch.arange(len(order_C), device=order_C.device)
        rank_C = torch.empty_like(place_C)
        rank_C.index_copy_(0, grouped_C, place_C - begin_B[sequence_C])
        is_able_C = rank_C < ground.size_B[mine.sequence_C]
        node_N = likeliest(mine, ground, is_able_C, rows, backend)
        is_real_N = node_N < self.nobody
        worth_N = worth_C[node_N].where(is_real_N, -torch.inf)
        rank_N = worth_N.argsort(descending=True, stable=True).argsort()
        is_real_N = is_real_N & (rank_N < ground.num_nodes)
        sequence_N = mine.sequence_C[node_N].where(is_real_N, NOBODYS)
        order_N = sequence_N.argsort(stable=True)
        return Harvest(node_N.where(is_real_N, self.nobody)[order_N], sequence_N[order_N])


@dataclass(frozen=True, slots=True)
class Harvest:
    """Nodes to verify, by sequence and in the order of candidates, so parents first; then nobody,
    of the sequence `NOBODYS`."""

    node_N: Tensor
    sequence_N: Tensor


def likeliest(
    mine: Candidates, ground: Ground, is_able_C: Tensor, count: int, backend: Backend
) -> Tensor:
    """The candidates of most worth among the able ones, rising; then nobody."""
    worth_C = mine.log_prob_C + ground.weight_B[mine.sequence_C]
    worth_1C = worth_C.where(is_able_C, -torch.inf)[None]
    flat_N, _ = backend.frontier(worth_1C, ground.weight_B.new_zeros(1), count)
    return flat_N.where(flat_N >= 0, len(worth_C) - 1)


def bits(number_N: Tensor, words: int) -> Tensor:
    """int64 [N, X] with nothing but bit `number` set."""
    one_N1 = torch.ones_like(number_N)[:, None] << (number_N % WORD_BITS)[:, None]
    word_X = torch.arange(words, device=number_N.device)
    return one_N1.where((number_N // WORD_BITS)[:, None] == word_X, 0)


def running_totals(count_B: Tensor) -> Tensor:
    """int32 [B + 1], from 0."""
    total_B = count_B.cumsum(0).int()
    return torch.cat([total_B.new_zeros(1), total_B])
