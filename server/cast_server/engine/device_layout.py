"""A step's inputs, laid out on the device: the roots that the host knows, the nodes it does not.

Each sequence has one row for its last token and, behind it, those of its nodes that are to be
verified, parents first. As everything else that is recorded: no number is looked at.

Shape suffixes beyond docs/shapes.md: C candidates, R rows, of which the last are idle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from cast_drafters.eagle.forest import Forest, Harvest, bits, running_totals
from cast_server.engine.step_buffers import StepInputs

_FIRST: Final = 0  # number of a tree's root among its rows


@dataclass(frozen=True, slots=True)
class Rows:
    """[R]: its sequence, the last one for idle rows; its number in it; its candidate; the row of
    its parent, its own for roots; what is true of it."""

    sequence_R: Tensor
    number_R: Tensor
    node_R: Tensor
    parent_R: Tensor
    is_root_R: Tensor
    is_idle_R: Tensor
    begin_B1: Tensor


def lay_out_rows(
    forest: Forest, harvest: Harvest, num_sequences: Tensor, batch: int, rows: int
) -> Rows:
    """num_sequences: int64 [1], at most `batch`. The rows must hold the roots and all nodes."""
    device = num_sequences.device
    own_B, row_R = torch.arange(batch, device=device), torch.arange(rows, device=device)
    is_there_B = own_B < num_sequences
    count_B = (harvest.sequence_N == own_B[:, None]).sum(1) + is_there_B
    begin_B1 = running_totals(count_B)
    sequence_R = (begin_B1[1:, None] <= row_R).sum(0).clamp(max=batch - 1)
    number_R = row_R - begin_B1[sequence_R]
    is_idle_R = row_R >= begin_B1[-1]
    is_root_R = (number_R == _FIRST) & ~is_idle_R
    # So many roots come before the row's node.
    place_R = (row_R - sequence_R - 1).clamp(0, len(harvest.node_N) - 1)
    node_R = harvest.node_N[place_R].where(~is_root_R & ~is_idle_R, forest.nobody)
    row_C = torch.zeros(forest.nobody + 1, dtype=torch.int64, device=device)
    row_C.index_copy_(0, node_R, row_R)
    above_R = forest.candidates.parent_C[node_R]
    parent_R = row_C[above_R].where(above_R >= 0, begin_B1[sequence_R].long())
    parent_R = parent_R.where(~is_root_R & ~is_idle_R, row_R)
    return Rows(sequence_R, number_R, node_R, parent_R, is_root_R, is_idle_R, begin_B1)


def tree_masks(rows: Rows, words: int, max_depth: int) -> Tensor:
    """int64 [R, words]: each row sees itself and those above it. Twice as far up in each round."""
    mask_RW = bits(rows.number_R, words)
    above_R = rows.parent_R
    for _ in range(max_depth.bit_length()):
        mask_RW = mask_RW | mask_RW[above_R]
        above_R = above_R[above_R]
    return mask_RW


def lay_out_grown(
    forest: Forest, harvest: Harvest, known: StepInputs, num_sequences: Tensor
) -> StepInputs:
    """`known`: the step as the host has sent it, with nothing but the roots: a row a sequence, and
    room behind them."""
    batch, plan = known.batch, known.batch.plan
    count = len(batch.input_ids_N)
    rows = lay_out_rows(forest, harvest, num_sequences, plan.size, count)
    root_R, node_R = rows.sequence_R, rows.node_R
    is_node_R = ~rows.is_root_R & ~rows.is_idle_R
    depth_R = forest.candidates.depth_C[node_R].where(is_node_R, 0)
    token_R = forest.candidates.token_C[node_R].where(is_node_R, batch.input_ids_N[root_R])
    # Root of sequence b is row b of what the host has sent; the rows behind it take its next slots.
    context_R = plan.context_B[root_R].long()
    slot_R = context_R + rows.number_R
    page_R = plan.page_BP[root_R, slot_R.where(~rows.is_idle_R, 0) // plan.page_size].long()
    slot_R = page_R * plan.page_size + slot_R % plan.page_size
    parent_R = (rows.parent_R - rows.begin_B1[root_R]).where(is_node_R, -1).int()
    masks_RW = tree_masks(rows, plan.mask_NW.shape[1], known.max_depth)
    return replace(
        known,
        batch=replace(
            batch,
            input_ids_N=token_R.where(~rows.is_idle_R, 0),
            position_ids_N=(context_R + depth_R).where(~rows.is_idle_R, 0),
            slots_M=slot_R.where(~rows.is_idle_R, -1),
            logit_rows=torch.arange(count, device=slot_R.device).where(~rows.is_idle_R, 0),
            plan=replace(
                plan,
                cu_rows_B1=rows.begin_B1,
                cu_tree_B1=rows.begin_B1,
                mask_NW=masks_RW.masked_fill(rows.is_idle_R[:, None], 0),
                depth_T=depth_R.int(),
            ),
        ),
        seed_R=known.seed_R[root_R],
        index_R=known.index_R[root_R] + depth_R,
        temperature_R=known.temperature_R[root_R],
        is_greedy_R=known.is_greedy_R[root_R],
        parent_R=parent_R,
        cu_trees_B1=rows.begin_B1,
    )
