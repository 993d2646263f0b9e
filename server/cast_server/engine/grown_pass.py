"""The target's pass over drafts that grow on the device: their nodes are read with its outcome.

Shape suffixes beyond docs/shapes.md: R rows, C candidates, X = max_depth + 2 numbers of a walk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.eagle.device_drafts import DeviceDrafts, DeviceStep
from cast_drafters.eagle.device_growth import Land
from cast_drafters.eagle.drafter import EagleDrafter
from cast_drafters.eagle.reading import NUM_FIELDS, Reading
from cast_drafters.tree import EMPTY_TREE
from cast_kernels.graphs import Graph, capture_all
from cast_kernels.staging import Arrival
from cast_kernels.tree_attention import SequenceRows
from cast_kernels.tree_attention.fixed import Size
from cast_server.engine.device_layout import lay_out_grown
from cast_server.engine.device_pass import DevicePass, finish, verify_rows
from cast_server.engine.forward_batch import StepRows
from cast_server.engine.model_runner import ModelRunner
from cast_server.engine.sampler import is_plain
from cast_server.engine.scheduler import Scheduled
from cast_server.engine.step_buffers import StepInputs
from cast_server.engine.target_pass import Launched, Verified
from cast_server.engine.verifier import begin_walks


class GrownOutcome(NamedTuple):
    """logits_RV: float32. letter: int32, one array of all that the host reads: walks_BX, then the
    candidate and the sequence of each verified node, [R] each, then `Forest.report`."""

    logits_RV: Tensor
    letter: Tensor


@torch.inference_mode()
def verify_grown(runner: ModelRunner, land: Land, known: StepInputs) -> GrownOutcome:
    """Chooses what to verify, lays it out behind the roots that are `known`, and verifies it."""
    forest, ground = land.forest, land.ground
    harvest = forest.harvest(ground, len(known.batch.input_ids_N), runner.backend)
    outcome = verify_rows(runner, lay_out_grown(forest, harvest, known, ground.num_sequences))
    parts = (outcome.walks_BX, harvest.node_N, harvest.sequence_N, forest.report())
    return GrownOutcome(outcome.logits_RV, torch.cat([part.int().flatten() for part in parts]))


@dataclass(frozen=True, slots=True)
class _Bucket:
    size: Size
    max_depth: int
    graph: Graph[GrownOutcome]


class GrownPass:
    """Beside a `DevicePass`, in whose buffers and buckets it works, for one drafter's steps."""

    def __init__(
        self, runner: ModelRunner, target: DevicePass, drafter: EagleDrafter, drafts: DeviceDrafts
    ) -> None:
        self._runner, self._target, self._drafter = runner, target, drafter
        self.drafts = drafts
        self._buckets = [self._make_bucket(size) for size in target.sizes]

    def capture(self, show_progress: bool = True) -> None:
        """Records a graph for each bucket, on a CUDA device, before the first step."""
        graphs = [bucket.graph for bucket in self._buckets]
        if not capture_all(graphs, "steps with drafts that have grown there", show_progress):
            self._buckets = []

    def takes(self, scheduled: Seq[Scheduled], drafter: object) -> bool:
        """Whether what is drafted for these by this drafter could be verified so: every sequence
        decodes and is walked on the device, and nobody asks for log-probabilities."""
        is_ours = drafter is self._drafter and self._target.is_watched_by(self._runner.observer)
        return is_ours and bool(self._buckets) and all(_is_simple(one) for one in scheduled)

    def launch(self, scheduled: Seq[Scheduled], step: DeviceStep) -> Launched:
        """The blocks of the most nodes that each sequence may get, `step.sizes`, must be
        reserved."""
        begin = time.perf_counter()
        rows = _roots(scheduled, step)
        bucket = self._bucket_of(Size.of(rows.sequences, self._target.page_size), step)
        self.drafts.launch(step, bucket.size.rows - len(scheduled))
        walks = begin_walks([one.sequence for one in scheduled], [EMPTY_TREE] * len(scheduled))
        self._target.buffers.send(rows, walks, [True] * len(walks))
        outcome = bucket.graph()
        shape = bucket.size.sequences, bucket.max_depth + 2
        arrival = Arrival(outcome.letter)
        return _Launched(begin, scheduled, step, outcome.logits_RV, arrival, shape)

    def _bucket_of(self, size: Size, step: DeviceStep) -> _Bucket:
        """That of all rows, or the largest: then there are fewer nodes."""
        wanted = size.rows + step.shape.num_nodes
        able = [one for one in self._buckets if one.size.holds(size)]
        return next((one for one in able if one.size.rows >= wanted), able[-1])

    def _make_bucket(self, size: Size) -> _Bucket:
        inputs = self._target.buffers.inputs(size)
        graph = Graph(lambda: verify_grown(self._runner, self.drafts.land, inputs))
        return _Bucket(size, inputs.max_depth, graph)


@dataclass(frozen=True, slots=True)
class _Launched(Launched):
    """`shape`: that of the walks."""

    begin: float
    scheduled: Seq[Scheduled]
    step: DeviceStep
    logits_RV: Tensor
    arrival: Arrival
    shape: tuple[int, int]

    def wait(self) -> Verified:
        walks_BX, reading = _open(self.arrival.wait(), self.shape, len(self.logits_RV))
        seconds = time.perf_counter() - self.begin
        self.step.reading = reading
        trees = [reading.verified(place) for place in range(len(self.scheduled))]
        walks = begin_walks([one.sequence for one in self.scheduled], trees)
        for walk, row in zip(walks, walks_BX.tolist(), strict=False):
            finish(walk, row)
        return Verified(walks, self.logits_RV, seconds)


def _open(
    letter: NDArray[np.int32], shape: tuple[int, int], rows: int
) -> tuple[NDArray[np.int32], Reading]:
    ends = np.cumsum([shape[0] * shape[1], rows, rows])
    walks, node_N, sequence_N, report = np.split(letter, ends)
    return walks.reshape(shape), Reading(report.reshape(NUM_FIELDS, -1), node_N, sequence_N)


def _is_simple(one: Scheduled) -> bool:
    sequence = one.sequence
    return sequence.is_decoding and is_plain(sequence) and sequence.params.logprobs is None


def _roots(scheduled: Seq[Scheduled], step: DeviceStep) -> StepRows:
    """The last token of each sequence; its slots are those of all that may come behind it too."""
    room = dict(zip(step.places, step.sizes, strict=True))
    tokens, positions, rows = [], [], []
    for place, one in enumerate(scheduled):
        sequence, begin = one.sequence, one.sequence.num_computed
        columns = 1 + room.get(place, 0)
        tokens.append(sequence.token_ids[begin])
        positions.append(begin)
        slots = sequence.slots(0, begin + columns)
        rows.append(
            SequenceRows(slots, np.zeros((1, columns), np.bool_), np.zeros(columns, np.int64))
        )
    own = np.array([one.slots_L[begin] for one, begin in zip(rows, positions, strict=True)])
    return StepRows(tokens, np.array(positions), own, rows, np.arange(len(rows)))
