"""Drafts with an EAGLE head, and with whatever costs nothing beside it, into one tree.

A step goes: catch up with the tokens committed since (one pass), read the root's children off its
last row, then one pass a level over the likeliest nodes. Sources that need no pass add children to
every node, and go on alone where the head stops.

The head's entry for the pair (hidden state of position p - 1, token p) lies in the target's slot of
position p: it depends on no token after p, so blocks with equal prefixes can be shared as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.base import (
    DraftContext,
    Drafter,
    Frontier,
    HiddenObserver,
    LevelGate,
    OpenGate,
    TargetParts,
    VerifyResult,
)
from cast_drafters.calibration import Calibration
from cast_drafters.coupling import Candidates, Coupling
from cast_drafters.eagle.catching_up import CatchingUp
from cast_drafters.eagle.checkpoint import read_head
from cast_drafters.eagle.config import TargetShape
from cast_drafters.eagle.free_guesses import FreeGuesses
from cast_drafters.eagle.growing import Growth, by_sequence, heat
from cast_drafters.eagle.passes import HeadPasses, Level, make_passes
from cast_drafters.eagle.served import NUM_SCRATCH, HeadRows, ServedHead
from cast_drafters.eagle.served_v1 import ServedHeadV1
from cast_drafters.eagle.stamps import Stamps
from cast_drafters.growth import ROOT
from cast_drafters.lessons import Proposals
from cast_drafters.ngram_store import NgramStore
from cast_drafters.pool import Pool, Prediction
from cast_drafters.shipped import shipped_head
from cast_drafters.sources import Source, StoreSource, TextSource
from cast_drafters.traffic import TrafficSource, TrafficStore
from cast_drafters.tree import EMPTY_TREE, DraftTree
from cast_kernels.gumbel import gumbel_noise

_MAX_CANDIDATES: Final = 64  # of a node of sampled text, before the noise ranks them

SOURCES: Final = ("text", "store")
STORE_FILE: Final = "ngrams.store"
POOL_FILE: Final = "pool.json"
CALIBRATION_FILE: Final = "calibration.json"


class EagleDrafter(Drafter, HiddenObserver):
    """How many passes a step takes, and how wide, is for the contexts' limits and the gate to say.

    A sequence that is more than `max_catch_up` tokens behind catches up in several steps, with no
    drafts of the head in between.
    """

    name = "eagle"

    def __init__(
        self,
        head: ServedHead,
        text: Source | None = None,
        store: Source | None = None,
        pool: Pool | None = None,
        calibration: Calibration | None = None,
        max_catch_up: int = 512,
    ) -> None:
        self.layer_ids = head.layer_ids
        self.head, self.passes = head, make_passes(head)
        self.free_guesses = FreeGuesses(text, store, pool or Pool.default())
        self.calibration = calibration or Calibration()
        self.stamps = Stamps(head.num_slots)
        self.catching_up = CatchingUp(head, self.passes, self.stamps, max_catch_up)
        self.coupling = Coupling()
        # What the last tree of a request offered behind each path, until the target has chosen.
        self._offered: dict[str, dict[tuple[int, ...], Candidates]] = {}
        self._proposals = Proposals()

    @classmethod
    def for_target(
        cls,
        target: TargetParts,
        head: Path | None = None,
        sources: Sequence[str] = SOURCES,
        num_scratch: int = NUM_SCRATCH,
        learn_from_traffic: bool = False,
    ) -> EagleDrafter:
        """Loads the head in the directory `head`, or the one that ships for a built-in target.

        `ngrams.store` beside it is the source "store", `pool.json` says how to weigh them.
        `learn_from_traffic` adds to that store, in memory, what sequences leave when they end.
        Raises `ValueError`, a sentence on what cannot be loaded or does not fit the target.
        """
        unknown = set(sources) - set(SOURCES)
        if unknown:
            raise ValueError(
                f"Draft source {min(unknown)!r} is unknown; choose {' or '.join(SOURCES)}."
            )
        directory = head or shipped_head(target.name)
        shape = TargetShape(target.hidden_size, target.vocab_size, target.num_layers)
        config, tensors = read_head(directory, shape)
        make_head = ServedHead if config.version == 3 else ServedHeadV1
        store_file, pool_file = directory / STORE_FILE, directory / POOL_FILE
        calibration = directory / CALIBRATION_FILE
        has_store = "store" in sources and store_file.exists()
        shipped = NgramStore.open(store_file) if has_store else None
        store: Source | None = StoreSource(shipped) if shipped is not None else None
        if learn_from_traffic:
            store = TrafficSource(TrafficStore(), shipped)
        return cls(
            make_head(config, tensors, target, num_scratch),
            text=TextSource() if "text" in sources else None,
            store=store,
            pool=Pool.open(pool_file) if pool_file.exists() else None,
            calibration=Calibration.load(calibration) if calibration.exists() else None,
        )

    @property
    def traffic(self) -> TrafficStore | None:
        """What ended sequences have left behind; None unless they are to leave anything."""
        return (
            self.free_guesses.store.traffic
            if isinstance(self.free_guesses.store, TrafficSource)
            else None
        )

    def use(self, passes: HeadPasses) -> None:
        """From now on the head's passes are these."""
        self.passes = passes
        self.catching_up = replace(self.catching_up, passes=passes)

    # Drafter

    def begin(self, request_id: str, token_ids: Sequence[int]) -> None:
        self.stamps.begin(request_id)
        self.free_guesses.begin(request_id, token_ids)

    @torch.inference_mode()
    def propose(
        self, contexts: Sequence[DraftContext], gate: LevelGate | None = None
    ) -> list[DraftTree]:
        trees: list[DraftTree] = [EMPTY_TREE] * len(contexts)
        for one in contexts:
            self._offered.pop(one.request_id, None)
        able = [i for i, one in enumerate(contexts) if _wants_drafts(one)]
        grown = self._grow([contexts[i] for i in able], gate or OpenGate()) if able else []
        for index, tree in zip(able, grown, strict=True):
            trees[index] = tree
        self._proposals.note(contexts, trees)
        return trees

    def observe(self, results: Sequence[VerifyResult]) -> None:
        """Learns how far to trust candidates, and how to rank them for sampled text; committed
        tokens are read from the sequence."""
        for result in results:
            offered = self._offered.pop(result.request_id, {})
            for depth, token in enumerate(result.token_ids):
                candidates = offered.get(result.token_ids[:depth])
                if candidates is not None:
                    self.coupling.learn(candidates, token)
        self._proposals.teach(self.calibration, results)

    def release(self, request_id: str) -> None:
        self.stamps.release(request_id)
        self._offered.pop(request_id, None)
        self._proposals.forget(request_id)
        self.free_guesses.release(request_id)

    # HiddenObserver

    def record(self, slots_M: Tensor, hidden: Sequence[Tensor]) -> None:
        self.head.fuse(slots_M, hidden)

    def move(self, source_M: Tensor, target_M: Tensor) -> None:
        self.head.move(source_M, target_M)

    # Growing

    def _grow(self, contexts: Sequence[DraftContext], gate: LevelGate) -> list[DraftTree]:
        self.free_guesses.read(contexts)
        growths = [Growth(one, self.calibration) for one in contexts]
        has_begun = self._begin_levels(growths, gate)
        level = 1
        while has_begun:
            frontiers = [self._frontier(one) for one in growths]
            nodes = self._runnable(growths, gate.widths(level, frontiers))
            if not nodes:
                break
            self._give_children(nodes, self._run(nodes))
            gate.ran(level, frontiers, [one.found() for one in growths])
            level += 1
        for growth in growths:
            self.free_guesses.go_on(growth)
        return [one.tree.finish() for one in growths]

    def _begin_levels(self, growths: Sequence[Growth], gate: LevelGate) -> bool:
        """Runs the roots that the gate lets through; whether any has children now."""
        missing = [self.catching_up.work(one.context) for one in growths]
        frontiers = [self._frontier(one, rows) for one, rows in zip(growths, missing, strict=True)]
        widths = gate.widths(0, frontiers)
        chosen = [one for one, width in zip(growths, widths, strict=True) if width]
        if not chosen:
            return False
        logits_RV, current = self.catching_up.run([one.context for one in chosen])
        nodes = []
        for place, index in enumerate(current):
            chosen[index].place = place
            nodes.append((chosen[index], ROOT))
        if not nodes:
            return False
        self._give_children(nodes, logits_RV)
        gate.ran(0, frontiers, [one.found() for one in growths])
        return True

    def _frontier(self, growth: Growth, num_rows: int = 0) -> Frontier:
        """What could be run next: the root, which takes `num_rows` rows, or open nodes."""
        tree, limits = growth.tree, growth.context.limits
        if num_rows:
            nodes = [ROOT]
        else:
            nodes = tree.frontier(limits.level_width) if growth.place is not None else []
        growth.open = nodes
        return Frontier(
            request_id=growth.context.request_id,
            limits=limits,
            log_probs=[0.0 if node == ROOT else tree.nodes[node].log_prob for node in nodes],
            num_rows=num_rows or 1,
            candidates=[node.log_prob for node in tree.nodes],
            free=partial(self._free_children, growth, nodes),
        )

    def _free_children(self, growth: Growth, nodes: Sequence[int], count: int) -> list[list[float]]:
        """What follows the first nodes if the head does not run there: conditional
        probabilities."""
        for node in nodes[:count]:
            if node not in growth.free:
                growth.free[node] = self.free_guesses.children(growth, node, None)
        return [[math.exp(child.log_prob) for child in growth.free[node]] for node in nodes[:count]]

    def _runnable(
        self, growths: Sequence[Growth], widths: Sequence[int]
    ) -> list[tuple[Growth, int]]:
        """The next level's nodes, at most as many as there are scratch slots."""
        chosen = [
            (one, node)
            for one, width in zip(growths, widths, strict=True)
            for node in one.open[:width]
        ]
        used = sum(len(one.run) for one in growths)
        room = self.head.num_scratch - used
        if len(chosen) > room:
            chosen = sorted(chosen, key=lambda pair: -pair[0].tree.nodes[pair[1]].log_prob)[:room]
            chosen.sort(key=lambda pair: pair[0].place or 0)
        for offset, (one, node) in enumerate(chosen):
            one.add_row(node, self.head.num_slots + used + offset)
        return chosen

    def _run(self, nodes: Sequence[tuple[Growth, int]]) -> Tensor:
        """One pass of the head over nodes that have just got their rows: logits [N, V]."""
        entries = [one.tree.nodes[node] for one, node in nodes]
        above = [one.slot_of(entry.parent) for (one, _), entry in zip(nodes, entries, strict=True)]
        slots_N = np.array([one.slot_of(node) for one, node in nodes])
        rows = HeadRows(
            np.array([entry.token for entry in entries]),
            np.array(
                [one.position + entry.depth for (one, _), entry in zip(nodes, entries, strict=True)]
            ),
            slots_N,
            [one.rows(list(group)) for one, group in by_sequence(nodes)],
        )
        return self.passes.run(Level(rows, np.array(above), None, keep_R=slots_N))

    def _give_children(self, nodes: Sequence[tuple[Growth, int]], logits_NV: Tensor) -> None:
        sampled = [i for i, (one, _) in enumerate(nodes) if one.context.temperature > 0]
        widest = max(one.context.limits.max_width for one, _ in nodes)
        count = max(widest, _MAX_CANDIDATES if sampled else 0)
        count = min(count, logits_NV.shape[1])
        log_q_NK, index_NK = self.head.backend.log_softmax_topk(logits_NV, count)
        ids_NK = self.head.draft_token_ids[index_NK.cpu().numpy()]
        q_NK = log_q_NK.exp().tolist()
        guesses = [
            list(zip(tokens, q, strict=True))[: one.context.limits.max_width]
            for (one, _), tokens, q in zip(nodes, ids_NK.tolist(), q_NK, strict=True)
        ]
        if sampled:
            chosen = [nodes[i] for i in sampled]
            heated = heat(chosen, logits_NV[sampled], index_NK[sampled])
            for i, ranked in zip(
                sampled, self._couple(chosen, ids_NK[sampled], heated), strict=True
            ):
                guesses[i] = ranked
        for (one, node), ranked in zip(nodes, guesses, strict=True):
            self._add_children(one, node, Prediction(0, ranked))

    def _couple(
        self,
        nodes: Sequence[tuple[Growth, int]],
        tokens_NK: NDArray[np.int64],
        log_q_NK: NDArray[np.float64],
    ) -> list[list[tuple[int, float]]]:
        """The best candidates of each node of sampled text; all are kept, to learn from."""
        seeds = torch.tensor([one.context.seed for one, _ in nodes])
        positions = torch.tensor([one.context.num_output + one.tree.depth(n) for one, n in nodes])
        # All nodes at once: the noise takes 200 small operations, however much of it is made.
        noise_NK = gumbel_noise(seeds[:, None], positions[:, None], torch.from_numpy(tokens_NK))
        ranked: list[list[tuple[int, float]]] = []
        for (one, node), *row in zip(nodes, tokens_NK, log_q_NK, noise_NK.numpy(), strict=True):
            candidates = Candidates(*row)
            path = tuple(one.tree.nodes[n].token for n in reversed(one.tree.ancestors(node)))
            self._offered.setdefault(one.context.request_id, {})[path] = candidates
            ranked.append(self.coupling.rank(candidates, one.context.limits.max_width))
        return ranked

    def _add_children(self, growth: Growth, node: int, head: Prediction) -> None:
        children = self.free_guesses.children(growth, node, head)
        growth.tree.add(node, children)
        growth.last_run[node] = children


def _wants_drafts(context: DraftContext) -> bool:
    limits = context.limits
    is_wanted = min(limits.max_nodes, limits.max_depth, limits.max_width) > 0
    return is_wanted and len(context.token_ids) > 1
