"""The target's pass and the walks behind it on the device, with one wait for it: for the outcome.

`verify_rows` is what the device does for a step. It takes no decision that depends on what tensors
hold and asks nothing back, so a captured graph can replay it: for steps that fit a bucket, padded
to it. Other steps, such as chunks of long prompts, call it with buffers of their own size.

Shape suffixes beyond docs/shapes.md: R rows whose logits are wanted, D max_depth of a path.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cast_drafters.base import HiddenObserver
from cast_drafters.tree import DraftTree
from cast_kernels.graphs import Graph, capture_all
from cast_kernels.staging import Arrival
from cast_kernels.tree_attention.fixed import Size
from cast_profiler.device import wait_for
from cast_server.engine.forward_batch import StepRows, lay_out
from cast_server.engine.model_runner import ModelRunner
from cast_server.engine.sampler import is_plain
from cast_server.engine.scheduler import Scheduled
from cast_server.engine.step_buffers import StepBuffers, StepInputs
from cast_server.engine.target_pass import Launched, TargetPass, Verified, choosing
from cast_server.engine.verifier import Walk, begin_walks, moves, walk_on


class Outcome(NamedTuple):
    """logits_RV: float32. walks_BX: int64; how many nodes are accepted, the token behind the last
    of them, and the accepted rows of the tree in order, then -1; X = D + 2."""

    logits_RV: Tensor
    walks_BX: Tensor


@torch.inference_mode()
def verify_rows(runner: ModelRunner, inputs: StepInputs) -> Outcome:
    """One pass, the choice at every wanted row, all walks, and the accepted rows to their places.

    Trees whose parents are all -1 are left to the host: nothing of them is moved.
    """
    backend, batch = runner.backend, inputs.batch
    logits_RV = runner.forward(batch)
    # Subtracting the maximum first keeps tiny temperatures finite.
    scores_RV = logits_RV - logits_RV.amax(-1, keepdim=True)
    scores_RV = scores_RV / inputs.temperature_R[:, None]
    chosen_R, _ = backend.gumbel_choice(
        scores_RV, inputs.seed_R, inputs.index_R, inputs.is_greedy_R
    )
    path_BD, accepted_B, bonus_B = backend.tree_accept(
        chosen_R,
        batch.input_ids_N[batch.logit_rows],
        inputs.parent_R,
        inputs.cu_trees_B1,
        len(inputs.parent_R),
        inputs.max_depth,
    )
    if inputs.max_depth:
        _move_accepted(runner, inputs, path_BD)
    return Outcome(logits_RV, torch.cat([accepted_B[:, None], bonus_B[:, None], path_BD], 1))


def _move_accepted(runner: ModelRunner, inputs: StepInputs, path_BD: Tensor) -> None:
    """Accepted keys, values and hidden states go where plain decoding would have put them."""
    slot_R = inputs.batch.slots_M[inputs.batch.logit_rows]
    root_B1 = inputs.cu_trees_B1[:-1, None]
    place_D = torch.arange(1, inputs.max_depth + 1, device=slot_R.device)
    last = len(slot_R) - 1
    source_BD = slot_R[(root_B1 + path_BD).clamp(0, last)]
    target_BD = slot_R[(root_B1 + place_D).clamp(max=last)]
    is_moved_BD = (path_BD >= 0) & (source_BD != target_BD)
    source_BD = source_BD.where(is_moved_BD, -1)
    target_BD = target_BD.where(is_moved_BD, -1)
    runner.backend.kv_commit(runner.kv_cache_YS2KD, source_BD, target_BD)
    if runner.observer is not None:
        runner.observer.move(source_BD, target_BD)


@dataclass(frozen=True, slots=True)
class _Bucket:
    size: Size
    graph: Graph[Outcome]


class DevicePass(TargetPass):
    """`buckets`: numbers of rows, rising, that steps are padded to; `largest`: the most that one
    of them can take of everything."""

    overlaps = True

    def __init__(
        self, runner: ModelRunner, buckets: Seq[int], largest: Size, page_size: int
    ) -> None:
        self.buckets = tuple(buckets)
        self._runner, self._page_size = runner, page_size
        self._observer = runner.observer
        self._buffers = StepBuffers(runner, largest, page_size, largest.rows)
        self._buckets = [self._make_bucket(largest.bucket(rows)) for rows in self.buckets]

    def capture(self, show_progress: bool = True) -> None:
        """Records a graph for each bucket; where a model cannot be recorded, it goes without.

        To be called on a CUDA device, with free memory, before the first step.
        """
        none = np.empty(0, np.int64)
        self._buffers.send(StepRows([], none, none, [], none), [], [])
        what = f"steps of {type(self._runner.model).__name__}"
        if not capture_all([bucket.graph for bucket in self._buckets], what, show_progress):
            self._buckets, self.buckets = [], ()

    @property
    def buffers(self) -> StepBuffers:
        return self._buffers

    @property
    def page_size(self) -> int:
        return self._page_size

    @property
    def sizes(self) -> list[Size]:
        """Of the buckets."""
        return [bucket.size for bucket in self._buckets]

    def is_watched_by(self, observer: HiddenObserver | None) -> bool:
        """Whether what was recorded shows hidden states to this one."""
        return observer is self._observer

    def launch(self, scheduled: Seq[Scheduled], trees: Seq[DraftTree]) -> Launched:
        begin = time.perf_counter()
        walks = begin_walks(*choosing(scheduled, trees))
        most = self._runner.backend.max_moves
        are_plain = [is_plain(one.sequence) and len(one.tree) <= most for one in walks]
        outcome = self._run(lay_out(scheduled, trees), walks, are_plain)
        arrival = Arrival(outcome.walks_BX) if walks else None
        return _Launched(self._runner, begin, walks, are_plain, outcome.logits_RV, arrival)

    def probe(self, scheduled: Seq[Scheduled], trees: Seq[DraftTree]) -> None:
        walks = begin_walks(*choosing(scheduled, trees))
        self._run(lay_out(scheduled, trees), walks, [True] * len(walks))
        wait_for(self._runner.device)

    def _run(self, rows: StepRows, walks: Seq[Walk], are_plain: Seq[bool]) -> Outcome:
        runner, size = self._runner, Size.of(rows.sequences, self._page_size)
        if self.is_watched_by(runner.observer):
            for bucket in self._buckets:
                if bucket.size.holds(size):
                    self._buffers.send(rows, walks, are_plain)
                    return bucket.graph()
        buffers = StepBuffers(runner, size, self._page_size, len(rows.logit_rows))
        buffers.send(rows, walks, are_plain)
        return verify_rows(runner, buffers.inputs(size))

    def _make_bucket(self, size: Size) -> _Bucket:
        inputs = self._buffers.inputs(size)
        return _Bucket(size, Graph(lambda: verify_rows(self._runner, inputs)))


@dataclass(frozen=True, slots=True)
class _Launched(Launched):
    runner: ModelRunner
    begin: float
    walks: list[Walk]
    are_plain: list[bool]
    logits_RV: Tensor
    arrival: Arrival | None

    def wait(self) -> Verified:
        found = self.arrival.wait().tolist() if self.arrival is not None else []
        seconds = time.perf_counter() - self.begin
        on_host = []
        for walk, plain, row in zip(self.walks, self.are_plain, found, strict=False):
            if plain:
                finish(walk, row)
            else:
                on_host.append(walk)
        if on_host:
            walk_on(self.logits_RV, on_host)
            self.runner.commit(*moves(on_host))
        return Verified(self.walks, self.logits_RV, seconds)


def finish(walk: Walk, row: Seq[int]) -> None:
    """What the device has found of a walk."""
    count, bonus, *path = row
    walk.accepted = [place - 1 for place in path[:count]]
    walk.tokens = [*walk.tree.token_ids_T[walk.accepted].tolist(), bonus]
    walk.rows = [walk.first_row, *(walk.first_row + place for place in path[:count])]
    walk.node = walk.accepted[-1] if walk.accepted else -1
