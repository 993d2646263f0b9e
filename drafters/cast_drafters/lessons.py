"""What a verified step teaches a calibration: of every accepted node, which candidate was right."""

from __future__ import annotations

from collections.abc import Sequence

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
    node, above = -1, 0.0
    for depth, token in enumerate(token_ids, start=1):
        right = -1
        for child in children.get(node, ()):
            is_right = right < 0 and int(tree.token_ids_T[child]) == token
            right = child if is_right else right
            source = int(tree.sources_T[child]) if tree.sources_T is not None else 0
            calibration.learn(
                Kind.of(is_sampled, source, depth, int(tree.ranks_T[child])),
                float(tree.confidences_T[child]),
                float(tree.log_probs_T[child]) - above,
                is_right,
            )
        if right < 0:
            return
        node, above = right, float(tree.log_probs_T[right])
