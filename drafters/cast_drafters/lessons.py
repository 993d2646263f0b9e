"""What a verified step teaches a calibration: of every accepted node, which candidate was right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cast_drafters.base import DraftContext, VerifyResult
from cast_drafters.calibration import Calibration, Kind
from cast_drafters.tree import DraftTree


class Proposals:
    """What was proposed last, until it is known what came of it."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[DraftTree, bool]] = {}  # and whether the text is sampled

    def note(self, contexts: Sequence[DraftContext], trees: Sequence[DraftTree]) -> None:
        """All candidates, in order of the contexts."""
        for context, tree in zip(contexts, trees, strict=True):
            self._last[context.request_id] = tree, context.temperature > 0

    def teach(self, calibration: Calibration, results: Sequence[VerifyResult]) -> None:
        for result in results:
            if result.request_id in self._last:
                tree, is_sampled = self._last.pop(result.request_id)
                learn_from(calibration, tree, result.token_ids, is_sampled)
                learn_paths(calibration, result, is_sampled)

    def forget(self, request_id: str) -> None:
        self._last.pop(request_id, None)


def learn_from(
    calibration: Calibration, tree: DraftTree, token_ids: Sequence[int], is_sampled: bool
) -> None:
    """`tree`: all candidates of a sequence, verified or not; `token_ids`: what it committed then.

    Walks along the committed tokens as long as there are candidates for them. Nodes without
    candidates teach nothing: whether to have any was the builder's choice.
    """
    if tree.confidences_T is None or tree.ranks_T is None:
        return
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parents_T.tolist()):
        children.setdefault(parent, []).append(node)
    node = -1
    for depth, token in enumerate(token_ids, start=1):
        right = -1
        for child in children.get(node, ()):
            is_right = right < 0 and int(tree.token_ids_T[child]) == token
            right = child if is_right else right
            source = int(tree.sources_T[child]) if tree.sources_T is not None else 0
            kind = Kind.of(is_sampled, source, depth, int(tree.ranks_T[child]))
            calibration.learn(kind, float(tree.confidences_T[child]), is_right)
        if right < 0:
            return
        node = right


def learn_paths(calibration: Calibration, result: VerifyResult, is_sampled: bool) -> None:
    """Of verified nodes only: which they are was settled before anything was known of them. Of the
    others, those behind a right guess remain unknown, so that mostly failures would be counted."""
    log_probs_T, depths_T = result.tree.log_probs_T, result.tree.depths_T
    for depth in range(2, int(depths_T.max(initial=0)) + 1):
        expected = float(np.exp(log_probs_T[depths_T == depth]).sum())
        calibration.learn_paths(is_sampled, depth, expected, len(result.accepted_nodes) >= depth)
