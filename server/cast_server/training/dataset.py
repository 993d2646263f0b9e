"""A corpus and its features as pieces to train on; it may grow while it is being used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cast_drafters.eagle.unroll import Piece
from cast_server.training.corpus import Conversation, read
from cast_server.training.features import FeatureFile


class Dataset:
    """The layer ids of the features are those of the head's taps, then the target's last state.

    `final_norm` is the target's norm before its output rows.
    """

    def __init__(
        self, path: Path, row_shape: tuple[int, int], final_norm: Callable[[Tensor], Tensor]
    ) -> None:
        self._path = path
        self._file = FeatureFile(path, row_shape)
        self._final_norm = final_norm
        self.conversations: list[Conversation] = []
        self._begins: list[int] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self.conversations)

    def refresh(self) -> None:
        """Takes in what has been added to the files."""
        self._features_NYE = self._file.open()
        begin = 0
        if self.conversations:
            begin = self._begins[-1] + self.conversations[-1].num_features
        for number, one in enumerate(read(self._path)):
            if number < len(self.conversations):
                continue
            if begin + one.num_features > len(self._features_NYE):
                break
            self.conversations.append(one)
            self._begins.append(begin)
            begin += one.num_features

    def is_held_out(self, index: int) -> bool:
        return self.conversations[index].is_held_out

    def num_tokens(self, index: int) -> int:
        return self.conversations[index].num_features

    def piece(self, index: int) -> Piece:
        one, begin = self.conversations[index], self._begins[index]
        rows_TYE = self._features_NYE[begin : begin + one.num_features]
        return Piece(
            token_ids_T=torch.tensor([*one.prompt, *one.answer]),
            features_TF=rows_TYE[:, :-1].flatten(1),
            final_TE=self._final_norm(rows_TYE[:, -1]),
            first_label=max(0, len(one.prompt) - 2),
        )
