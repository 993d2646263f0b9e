"""Drafts of an answer that is held to a grammar: without what is forbidden, with what is forced.

Neither changes an answer, as every node is verified like any other. A forbidden node would be a row
for nothing; so would one that ends the text, as its parent's row tells that already. Where only one
token is allowed, its node needs no guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from cast_drafters.base import DraftLimits
from cast_drafters.tree import DraftTree
from cast_server.engine.grammar_state import GrammarState

_ROOT: Final = -1
_LEAST_SHARE: Final = 1e-3  # of the probability, for the siblings of what is forbidden


class _Node(NamedTuple):
    """A node that stays: its path with its own token, its parent in the new tree, and its index in
    the drafter's, None for one that the drafter did not have."""

    path: tuple[int, ...]
    parent: int
    log_prob: float
    drafted: int | None


def held_to(grammar: GrammarState | None, tree: DraftTree, limits: DraftLimits) -> DraftTree:
    """What the grammar makes of a tree, within the limits.

    Siblings of forbidden nodes take over their probability; a forced node is as likely as its
    parent.
    """
    if grammar is None:
        return tree
    nodes: list[_Node] = []
    open_nodes = [_Node((), _ROOT, 0.0, _ROOT)]
    children = _Children(tree)
    while open_nodes:
        node = open_nodes.pop()
        place = len(nodes) if node.path else _ROOT
        if node.path:
            nodes.append(node)
        if len(node.path) < limits.max_depth:
            open_nodes += _follow(grammar, children, node, place)
    return _tree(nodes, tree).best(limits.max_nodes)


class _Children:
    """Of a drafter's nodes: (index, token, natural log-probability given the parent)."""

    def __init__(self, tree: DraftTree) -> None:
        log_probs = [*tree.log_probs_T.tolist(), 0.0]  # the last is the root's
        self._of: dict[int, list[tuple[int, int, float]]] = {}
        edges = zip(tree.token_ids_T.tolist(), tree.parents_T.tolist(), strict=True)
        for node, (token_id, parent) in enumerate(edges):
            entry = node, token_id, log_probs[node] - log_probs[parent]
            self._of.setdefault(parent, []).append(entry)

    def of(self, node: int | None) -> list[tuple[int, int, float]]:
        return self._of.get(node, []) if node is not None else []


def _follow(grammar: GrammarState, children: _Children, node: _Node, place: int) -> Iterator[_Node]:
    """The children that a node has under the grammar."""
    drafted = children.of(node.drafted)
    forced = grammar.forced(node.path)
    if forced is not None:
        same = next((index for index, token_id, _ in drafted if token_id == forced), None)
        path = (*node.path, forced)
        if grammar.goes_on(path):
            yield _Node(path, place, node.log_prob, same)
        return
    allowed, forbidden = [], 0.0
    for one in drafted:
        if grammar.goes_on((*node.path, one[1])):
            allowed.append(one)
        else:
            forbidden += math.exp(one[2])
    rest = math.log(max(_LEAST_SHARE, 1.0 - forbidden))
    for index, token_id, log_prob in allowed:
        worth = node.log_prob + min(0.0, log_prob - rest)
        yield _Node((*node.path, token_id), place, worth, index)


def _tree(nodes: list[_Node], drafted: DraftTree) -> DraftTree:
    """With what the drafter told of its own nodes; it told nothing of the forced ones."""
    old_T = np.array([-1 if node.drafted is None else node.drafted for node in nodes], np.intp)

    def told(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        padded = np.append(values, np.zeros(1, values.dtype))  # where -1 finds a 0
        return padded[old_T]

    return DraftTree(
        np.array([node.path[-1] for node in nodes], np.int64),
        np.array([node.parent for node in nodes], np.int32),
        np.array([node.log_prob for node in nodes], np.float64),
        told(drafted.sources_T),
        told(drafted.confidences_T),
        told(drafted.ranks_T),
    )
