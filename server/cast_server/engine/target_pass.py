"""A step's pass of the target, from its rows to what is accepted of them."""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cast_drafters.tree import DraftTree
from cast_profiler.device import wait_for
from cast_server.engine.forward_batch import build_forward_batch, lay_out
from cast_server.engine.model_runner import ModelRunner
from cast_server.engine.scheduler import Scheduled
from cast_server.engine.sequence import Sequence
from cast_server.engine.verifier import Walk, begin_walks, moves, walk_on


@dataclass(frozen=True, slots=True)
class Verified:
    """The walks of all sequences that choose a token, in order, and the logits of their rows; then
    those of the rows that prompts are read from, and on a device those of padding.

    Accepted keys and values are in their places. `seconds`: what the pass took.
    """

    walks: list[Walk]
    logits_RV: Tensor
    seconds: float

    @property
    def read_logits_RV(self) -> Tensor:
        """The logits of no walk."""
        return self.logits_RV[sum(1 + len(walk.tree) for walk in self.walks) :]


class Launched(Protocol):
    """A step's pass on its way."""

    def wait(self) -> Verified:
        """Until its outcome is there. To be called once, before the next pass is launched."""
        ...


class TargetPass(Protocol):
    """`buckets` are the numbers of rows that passes are padded to, if they are. `overlaps`: there
    is time between `launch` and what it returns for other work of the host."""

    buckets: tuple[int, ...]
    overlaps: bool = False

    def launch(self, scheduled: Seq[Scheduled], trees: Seq[DraftTree]) -> Launched:
        """The blocks of all rows must be reserved."""
        ...

    def probe(self, scheduled: Seq[Scheduled], trees: Seq[DraftTree]) -> None:
        """What `verify` counts as the pass and nothing else, for those who time it."""


@dataclass(frozen=True, slots=True)
class _Done(Launched):
    verified: Verified

    def wait(self) -> Verified:
        return self.verified


class HostPass(TargetPass):
    """Tensors of just the step's rows; trees are walked on the host, level by level."""

    buckets = ()

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    def launch(self, scheduled: Seq[Scheduled], trees: Seq[DraftTree]) -> Launched:
        return _Done(self._verify(scheduled, trees))

    def _verify(self, scheduled: Seq[Scheduled], trees: Seq[DraftTree]) -> Verified:
        begin = time.perf_counter()
        logits_RV = self._run(scheduled, trees)
        seconds = time.perf_counter() - begin
        walks = begin_walks(*choosing(scheduled, trees))
        walk_on(logits_RV, walks)
        self._runner.commit(*moves(walks))
        return Verified(walks, logits_RV, seconds)

    def probe(self, scheduled: Seq[Scheduled], trees: Seq[DraftTree]) -> None:
        self._run(scheduled, trees)

    def _run(self, scheduled: Seq[Scheduled], trees: Seq[DraftTree]) -> Tensor:
        runner = self._runner
        rows = lay_out(scheduled, trees)
        batch = build_forward_batch(rows, runner.kv_caches, runner.backend, runner.min_rows)
        logits_RV = runner.forward(batch)
        wait_for(runner.device)  # a CPU has done it by now
        return logits_RV


def choosing(
    scheduled: Seq[Scheduled], trees: Seq[DraftTree]
) -> tuple[list[Sequence], list[DraftTree]]:
    """The sequences whose last token is computed in this step, and their trees."""
    pairs = [(one.sequence, t) for one, t in zip(scheduled, trees, strict=True) if one.reaches_end]
    return [sequence for sequence, _ in pairs], [tree for _, tree in pairs]
