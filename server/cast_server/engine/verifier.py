"""Walks draft trees along the target's own choices.

The target's choice at a node depends on the node's prefix and the noise of its position only, so
what is committed is what plain decoding would have produced, whatever the tree. Only nodes on the
accepted paths are ever evaluated: all sequences go one level deeper together.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.tree import DraftTree
from cast_server.engine.sampler import Position, choose
from cast_server.engine.sequence import Sequence


@dataclass(slots=True)
class Walk:
    """One sequence's way through its tree. `rows` are the logit rows of the chosen tokens."""

    sequence: Sequence
    tree: DraftTree
    first_row: int
    node: int = -1
    accepted: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def begin_walks(sequences: Seq[Sequence], trees: Seq[DraftTree]) -> list[Walk]:
    """At the roots, whose logit rows come first, each before those of its nodes."""
    walks: list[Walk] = []
    row = 0
    for sequence, tree in zip(sequences, trees, strict=True):
        walks.append(Walk(sequence, tree, row))
        row += 1 + len(tree)
    return walks


def walk_on(logits_RV: Tensor, walks: Seq[Walk]) -> None:
    """To the ends: the accepted nodes and the chosen tokens, one more than nodes (the bonus).

    logits_RV: float32; each sequence's root row, then its nodes' rows, in order.
    """
    children = [walk.tree.children() for walk in walks]
    active = list(range(len(walks)))
    while active:
        rows = [walks[i].first_row + 1 + walks[i].node for i in active]
        positions = [Position(walks[i].sequence, tuple(walks[i].tokens)) for i in active]
        chosen = choose(logits_RV[rows], positions)
        going_on: list[int] = []
        for i, row, token_id in zip(active, rows, chosen, strict=True):
            walk = walks[i]
            walk.tokens.append(token_id)
            walk.rows.append(row)
            child = children[i].get((walk.node, token_id))
            if child is not None:
                walk.node = child
                walk.accepted.append(child)
                going_on.append(i)
        active = going_on


def moves(walks: Seq[Walk]) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """From which slots to which accepted keys and values go, to be where plain decoding would have
    put them; of the walks that have any to move."""
    source: list[NDArray[np.int64]] = []
    target: list[NDArray[np.int64]] = []
    for walk in walks:
        count = len(walk.accepted)
        if walk.accepted == list(range(count)):
            continue  # the path is where it belongs, as in any chain
        root = len(walk.sequence.token_ids)
        nodes = walk.sequence.slots(root, root + len(walk.tree))
        source.append(nodes[walk.accepted])
        target.append(nodes[:count])
    return source, target
