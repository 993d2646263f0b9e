"""One sequence's draft while the head works on it, and the rows of the head that belong to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.base import DraftContext
from cast_drafters.calibration import Calibration
from cast_drafters.growth import ROOT, Child, GrowingTree
from cast_drafters.sources import TAIL
from cast_kernels.tree_attention import SequenceRows


class Growth:
    """One sequence's tree, and the rows of the head that belong to it.

    `place`: its number among the sequences whose roots have run; None while the head has not.
    """

    def __init__(self, context: DraftContext, calibration: Calibration) -> None:
        self.context = context
        self.place: int | None = None
        self.tree = GrowingTree(
            context.token_ids[-TAIL:], context.limits, calibration, context.temperature > 0
        )
        self.position = len(context.token_ids) - 2  # of the root's pair
        self.run: dict[int, int] = {}  # node -> its number among the rows of this tree
        self.slots: list[int] = []
        self.open: list[int] = []  # nodes that the next level might run
        self.free: dict[int, list[Child]] = {}  # children that nodes have without the head
        self.last_run: dict[int, list[Child]] = {}  # and those that the last level has given

    def found(self) -> list[list[float]]:
        """Conditional probabilities of the children that the last level gave, node by node."""
        last, self.last_run = self.last_run, {}
        return [
            [math.exp(child.log_prob) for child in last[node]] for node in self.open if node in last
        ]

    def add_row(self, node: int, slot: int) -> None:
        self.run[node] = len(self.run)
        self.slots.append(slot)

    def slot_of(self, node: int) -> int:
        """Where the head's state behind a node is kept."""
        return int(self.context.slots_L[-1]) if node == ROOT else self.slots[self.run[node]]

    def rows(self, nodes: Sequence[int]) -> SequenceRows:
        """What the last rows, those of `nodes`, see."""
        context_slots = self.context.slots_L[1:]
        mask_RC = np.zeros((len(nodes), len(self.run)), np.bool_)
        for row, node in enumerate(nodes):
            mask_RC[row, [self.run[above] for above in self.tree.ancestors(node)]] = True
        depths_C = np.array([self.tree.nodes[node].depth for node in self.run], np.int64)
        return SequenceRows(
            np.concatenate([context_slots, np.array(self.slots, np.int64)]), mask_RC, depths_C
        )


def by_sequence(
    nodes: Sequence[tuple[Growth, int]],
) -> list[tuple[Growth, list[int]]]:
    groups: dict[int, tuple[Growth, list[int]]] = {}
    for one, node in nodes:
        groups.setdefault(one.place or 0, (one, []))[1].append(node)
    return list(groups.values())


def heat(
    nodes: Sequence[tuple[Growth, int]], logits_NV: Tensor, index_NK: Tensor
) -> NDArray[np.float64]:
    """The best log-probabilities [N, K] at the temperatures of the nodes' requests."""
    temperature_N1 = torch.tensor([[one.context.temperature] for one, _ in nodes])
    heated_NV = logits_NV / temperature_N1.to(logits_NV.device)
    log_q_NK = heated_NV.gather(1, index_NK) - heated_NV.logsumexp(-1, keepdim=True)
    heated: NDArray[np.float64] = log_q_NK.double().cpu().numpy()
    return heated
