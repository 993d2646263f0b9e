"""A step's inputs at fixed places of the device: what a captured graph reads.

Shape suffixes beyond docs/shapes.md: R rows whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cast_kernels.staging import Field
from cast_kernels.tree_attention.fixed import FixedBatch, Size, fill_counts
from cast_server.engine.forward_batch import ForwardBatch, StepRows
from cast_server.engine.model_runner import ModelRunner
from cast_server.engine.verifier import Walk


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Of the target's pass and of the walks behind it.

    batch: as for any pass; slots of padding rows are -1. For each row whose logits are wanted:
    seed_R and index_R, which key its noise; temperature_R, 1 where is_greedy_R; parent_R, its
    parent's row within the tree, -1 for roots and for trees that are walked on the host.
    cu_trees_B1: where each tree's rows begin. max_depth: no path is longer.
    """

    batch: ForwardBatch
    seed_R: Tensor
    index_R: Tensor
    temperature_R: Tensor
    is_greedy_R: Tensor
    parent_R: Tensor
    cu_trees_B1: Tensor
    max_depth: int


class StepBuffers:
    """Memory for steps up to `size`, with `wanted` rows whose logits are wanted at most."""

    def __init__(self, runner: ModelRunner, size: Size, page_size: int, wanted: int) -> None:
        by_row, by_wanted = (size.rows,), (wanted,)
        fields = {
            "input_ids": Field(by_row, torch.int64),
            "position_ids": Field(by_row, torch.int64),
            "slots": Field(by_row, torch.int64),
            "logit_rows": Field(by_wanted, torch.int64),
            "seed": Field(by_wanted, torch.int64),
            "index": Field(by_wanted, torch.int64),
            "temperature": Field(by_wanted, torch.float32),
            "is_greedy": Field(by_wanted, torch.bool),
            "parent": Field(by_wanted, torch.int32),
            "cu_trees": Field((size.sequences + 1,), torch.int32),
        }
        self._runner, self._wanted = runner, wanted
        self._fixed = FixedBatch(size, page_size, runner.device, fields)

    def inputs(self, size: Size) -> StepInputs:
        """For steps padded to `size`, the whole or a bucket of it."""
        runner, device, rows = self._runner, self._fixed.device, size.rows
        wanted = min(self._wanted, rows)
        return StepInputs(
            batch=ForwardBatch(
                input_ids_N=device["input_ids"][:rows],
                position_ids_N=device["position_ids"][:rows],
                slots_M=device["slots"][:rows],
                logit_rows=device["logit_rows"][:wanted],
                plan=self._fixed.batch(size),
                kv_caches=runner.kv_caches,
                backend=runner.backend,
            ),
            seed_R=device["seed"][:wanted],
            index_R=device["index"][:wanted],
            temperature_R=device["temperature"][:wanted],
            is_greedy_R=device["is_greedy"][:wanted],
            parent_R=device["parent"][:wanted],
            cu_trees_B1=device["cu_trees"][: size.sequences + 1],
            max_depth=min(max(0, wanted - 1), runner.backend.max_moves),
        )

    def send(self, rows: StepRows, walks: Seq[Walk], are_plain: Seq[bool]) -> None:
        """Writes a step that fits; padding is written nowhere and attends to nothing."""
        self._fixed.wait()
        host = self._fixed.host
        count, wanted = len(rows.token_ids), len(rows.logit_rows)
        host["input_ids"][:count], host["input_ids"][count:] = rows.token_ids, 0
        host["position_ids"][:count], host["position_ids"][count:] = rows.positions_N, 0
        host["slots"][:count], host["slots"][count:] = rows.slots_N, -1
        host["logit_rows"][:wanted], host["logit_rows"][wanted:] = rows.logit_rows, 0
        host["seed"][:] = host["index"][:] = 0
        host["temperature"][:], host["is_greedy"][:], host["parent"][:] = 1.0, True, -1
        for walk, is_plain in zip(walks, are_plain, strict=True):
            if is_plain:
                self._write_walk(walk)
        fill_counts(host["cu_trees"], [1 + len(walk.tree) for walk in walks])
        self._fixed.send(rows.sequences)

    def _write_walk(self, walk: Walk) -> None:
        host, sequence, tree = self._fixed.host, walk.sequence, walk.tree
        own = slice(walk.first_row, walk.first_row + 1 + len(tree))
        host["parent"][own.start + 1 : own.stop] = tree.parents_T + 1
        if not sequence.params.is_greedy:
            host["seed"][own] = sequence.request.seed
            host["index"][own] = sequence.num_output + np.append(0, tree.depths_T)
            host["temperature"][own] = sequence.params.temperature
            host["is_greedy"][own] = False
