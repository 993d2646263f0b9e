"""Any drafter, and beside it the text that a client expects as the answer (OpenAI's `prediction`).

The drafter knows nothing of it. What the expected text says next costs no pass, so the gate is told
of it before any is made: where it is trusted, none is, and a chain of the text is verified as deep
as that pays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Final

from cast_drafters.base import (
    DraftContext,
    Drafter,
    Frontier,
    LevelGate,
    OpenGate,
    VerifyResult,
)
from cast_drafters.calibration import Calibration
from cast_drafters.follower import Follower
from cast_drafters.grafting import graft, share_rest
from cast_drafters.tree import EMPTY_TREE, PREDICTED, DraftTree

_LEAST: Final = math.log(0.02)  # a path less likely is not offered

_Chain = Sequence[tuple[int, float]]


class PredictedDrafter(Drafter):
    """Drafts of `inner`, and of each context's `prediction` where it has one."""

    def __init__(self, inner: Drafter) -> None:
        self.inner = inner
        self._followers: dict[str, Follower] = {}

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.inner.name

    @property
    def calibration(self) -> Calibration:  # type: ignore[override]
        return self.inner.calibration

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        self._followers.pop(request_id, None)
        self.inner.begin(request_id, token_ids)

    def propose(
        self, contexts: Sequence[DraftContext], gate: LevelGate | None = None
    ) -> list[DraftTree]:
        chains = {one.request_id: self._chain(one) for one in contexts if one.prediction}
        if not any(chains.values()):
            return self.inner.propose(contexts, gate)
        asked = [_beside(one, chains.get(one.request_id, ())) for one in contexts]
        trees = self.inner.propose(asked, _InformedGate(gate or OpenGate(), chains))
        return [
            graft(tree, chains[one.request_id], PREDICTED, one.limits)
            if chains.get(one.request_id)
            else tree
            for one, tree in zip(contexts, trees, strict=True)
        ]

    def observe(self, results: Sequence[VerifyResult]) -> None:
        """What became of the expected text's nodes is read from the sequence, and is no lesson on
        the paths of `inner`."""
        self.inner.observe([_without_prediction(one) for one in results])

    def release(self, request_id: str) -> None:
        self._followers.pop(request_id, None)
        self.inner.release(request_id)

    def _chain(self, context: DraftContext) -> _Chain:
        limits = context.limits
        if min(limits.max_nodes, limits.max_depth, limits.max_width) <= 0:
            return ()
        follower = self._followers.get(context.request_id)
        if follower is None:
            follower = self._followers[context.request_id] = Follower(context.prediction)
        follower.read(context.token_ids, context.num_output)
        length = min(limits.max_nodes, limits.max_depth)
        return follower.guesses(length, max(limits.least, _LEAST))


@dataclass(frozen=True, slots=True)
class _InformedGate(LevelGate):
    """Lets `gate` know what the chains say without any pass."""

    gate: LevelGate
    chains: Mapping[str, _Chain]

    def widths(self, level: int, frontiers: Sequence[Frontier]) -> list[int]:
        return self.gate.widths(level, [self._informed(level, one) for one in frontiers])

    def ran(
        self,
        level: int,
        frontiers: Sequence[Frontier],
        children: Sequence[Sequence[Sequence[float]]],
    ) -> None:
        informed = [self._informed(level, one) for one in frontiers]
        found = [
            [_beside_rivals(chain, one) for one in mine]
            if level == 0 and (chain := self.chains.get(frontier.request_id))
            else mine
            for frontier, mine in zip(frontiers, children, strict=True)
        ]
        self.gate.ran(level, informed, found)

    def _informed(self, level: int, frontier: Frontier) -> Frontier:
        """Which of the nodes below the root the chain leads through is not told here."""
        chain = self.chains.get(frontier.request_id)
        if not chain:
            return frontier
        candidates = [*frontier.candidates, *accumulate(log_prob for _, log_prob in chain)]
        free = partial(_free, chain, frontier) if level == 0 else frontier.free
        return replace(frontier, candidates=candidates, free=free)


def _free(chain: _Chain, frontier: Frontier, count: int) -> list[list[float]]:
    return [_beside_rivals(chain, one) for one in frontier.free(count)]


def _beside_rivals(chain: _Chain, children: Sequence[float]) -> list[float]:
    """Probabilities of the root's children, falling, with the chain's first among them."""
    first = math.exp(chain[0][1])
    return sorted([first, *share_rest(first, children)], reverse=True)


def _beside(context: DraftContext, chain: _Chain) -> DraftContext:
    """What is of use beside a chain that could fill the tree alone."""
    limits = context.limits
    if len(chain) < limits.max_nodes:
        return context
    least = max(limits.least, sum(log_prob for _, log_prob in chain))
    return replace(context, limits=replace(limits, least=least))


def _without_prediction(result: VerifyResult) -> VerifyResult:
    sources_T = result.tree.sources_T
    if sources_T is None or not (sources_T == PREDICTED).any():
        return result
    return replace(result, tree=EMPTY_TREE, accepted_nodes=())
