"""The target's hidden states for a corpus: computed anyway while it answers, so kept, not redone.

`corpus.jsonl` has its hidden states beside it in `corpus.features`: plain bfloat16 rows, one for
each position of each conversation but its last, in the order of the lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.base import HiddenObserver
from cast_server.engine.model_runner import ModelRunner
from cast_server.training.corpus import read


class FeatureRecorder(HiddenObserver):
    """Holds the hidden states of every slot of the KV cache, [slots, layer ids, E]."""

    def __init__(self, runner: ModelRunner, layer_ids: tuple[int, ...]) -> None:
        self.layer_ids = layer_ids
        width: int = runner.model.config.get_text_config().hidden_size
        num_slots = runner.kv_cache_YS2KD.shape[1]
        self.row_shape = (len(layer_ids), width)
        # One more than there are slots: its last row is what index -1 stands for.
        self._rows_SYE = torch.empty((num_slots + 1, *self.row_shape), dtype=torch.bfloat16)
        runner.watch(self)

    def record(self, slots_M: Tensor, hidden: Sequence[Tensor]) -> None:
        rows_MYE = torch.stack([layer_ME.to("cpu", torch.bfloat16) for layer_ME in hidden], 1)
        self._rows_SYE[slots_M.cpu()] = rows_MYE

    def move(self, source_M: Tensor, target_M: Tensor) -> None:
        self._rows_SYE[target_M.cpu()] = self._rows_SYE[source_M.cpu()]

    def rows(self, slots_L: NDArray[np.int64]) -> Tensor:
        """[L, layer ids, E], a copy."""
        return self._rows_SYE[torch.from_numpy(slots_L)]


class FeatureFile:
    """The file beside `corpus`. Rows are appended before the corpus gets their conversation."""

    def __init__(self, corpus: Path, row_shape: tuple[int, int]) -> None:
        self.path = corpus.with_suffix(".features")
        self._row_shape = row_shape
        self._row_bytes = 2 * row_shape[0] * row_shape[1]

    def append(self, rows_LYE: Tensor) -> None:
        with self.path.open("ab") as file:
            file.write(rows_LYE.contiguous().view(torch.int16).numpy().tobytes())

    def repair(self, corpus: Path) -> None:
        """Cuts off rows whose conversation did not reach the corpus. Raises `ValueError` if rows
        are missing instead."""
        rows = sum(one.num_features for one in read(corpus)) if corpus.exists() else 0
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < rows * self._row_bytes:
            raise ValueError(
                f"{self.path} holds {size // self._row_bytes} rows but {corpus} needs {rows}: "
                "they do not belong together; delete both, or move them away."
            )
        with self.path.open("ab") as file:
            file.truncate(rows * self._row_bytes)

    def open(self) -> Tensor:
        """All rows, bfloat16 [N, layer ids, E], mapped and not read."""
        rows = self.path.stat().st_size // self._row_bytes
        mapped = np.memmap(self.path, np.int16, "c", shape=(rows, *self._row_shape))
        return torch.from_numpy(mapped).view(torch.bfloat16)
