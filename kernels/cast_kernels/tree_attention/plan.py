"""What attention needs to know of a step, laid out once on the host and used by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Microseconds on two cores of a server CPU; only their ratios matter.
CALL: Final = 80.0  # a group more
KEY: Final = 0.05  # a key gathered
PAIR: Final = 0.02  # a key seen, or hidden, by a row


@dataclass(frozen=True, slots=True)
class SequenceRows:
    """One sequence's part of a step: R rows, the last of its L keys.

    slots_L: int64 cache slots. The last C >= R keys are a tree, of which the last R are computed in
    this step; all keys before them are context that every row sees. mask_RC: bool, true where key c
    is row r or an ancestor of it. depths_C: int, positions behind the context.
    """

    slots_L: NDArray[np.int64]
    mask_RC: NDArray[np.bool_]
    depths_C: NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        return len(self.mask_RC)

    @property
    def num_keys(self) -> int:
        return len(self.slots_L)

    def visible(self, window: int | None) -> NDArray[np.bool_]:
        """Which of the L keys each of the R rows sees, bool [R, L]."""
        context = self.num_keys - self.mask_RC.shape[1]
        visible_RL = np.ones((self.num_rows, self.num_keys), np.bool_)
        visible_RL[:, context:] = self.mask_RC
        if window is not None and self.num_keys > window:
            key_position_L = np.concatenate([np.arange(context), context + self.depths_C])
            position_R = key_position_L[-self.num_rows :]
            visible_RL &= key_position_L > (position_R - window)[:, None]
        return visible_RL


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences of similar size, padded to a common number of rows R and keys L.

    rows_BR: int64 rows of the step, padding repeats the sequence's first row; None if all sequences
    have R rows, side by side from `begin` to `end`. real_BR: bool, not padding.
    slots_BL: int64, padding repeats the sequence's first slot, which is always finite.
    """

    members: tuple[SequenceRows, ...]
    num_rows: int
    num_keys: int
    begin: int
    end: int
    slots: Tensor
    rows: Tensor | None
    real_rows: Tensor | None


class AttentionPlan:
    """Groups the sequences of a step so that each group is one dense attention call.

    Masks are made when a layer first asks for a window and kept for the other layers.
    """

    def __init__(self, rows: Sequence[SequenceRows], device: torch.device) -> None:
        self.rows = tuple(rows)
        self.num_rows = sum(one.num_rows for one in rows)
        self._device = device
        begins = np.cumsum([0, *(one.num_rows for one in rows)])
        self.groups = tuple(
            self._make_group(members, begins) for members in _split_by_size(self.rows)
        )
        self._masks: dict[tuple[int | None, int, torch.dtype], tuple[Tensor, ...]] = {}

    def masks(
        self, window: int | None, heads_per_key: int, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Additive masks [B, 1, G * R, L] of the groups: 0 where visible, -inf elsewhere."""
        key = window, heads_per_key, dtype
        if key not in self._masks:
            self._masks[key] = tuple(
                self._make_mask(group, window, heads_per_key).to(dtype) for group in self.groups
            )
        return self._masks[key]

    def _make_group(self, members: Sequence[int], begins: NDArray[np.int64]) -> Group:
        chosen = tuple(self.rows[index] for index in members)
        num_rows = max(one.num_rows for one in chosen)
        num_keys = max(one.num_keys for one in chosen)
        slots_BL = np.stack([_pad(one.slots_L, num_keys) for one in chosen])
        begin, end = int(begins[members[0]]), int(begins[members[-1] + 1])
        rows = real_rows = None
        if end - begin != num_rows * len(chosen) or len(chosen) != members[-1] - members[0] + 1:
            rows_BR = [
                _pad(np.arange(begins[i], begins[i + 1], dtype=np.int64), num_rows) for i in members
            ]
            rows = torch.from_numpy(np.concatenate(rows_BR)).to(self._device)
            real_BR = np.arange(num_rows) < np.array([[one.num_rows] for one in chosen])
            real_rows = torch.from_numpy(np.flatnonzero(real_BR)).to(self._device)
        slots = torch.from_numpy(slots_BL.reshape(-1)).to(self._device)
        return Group(chosen, num_rows, num_keys, begin, end, slots, rows, real_rows)

    def _make_mask(self, group: Group, window: int | None, heads_per_key: int) -> Tensor:
        shape = (len(group.members), group.num_rows, group.num_keys)
        hidden_BRL = np.ones(shape, np.bool_)
        for hidden_RL, one in zip(hidden_BRL, group.members, strict=True):
            hidden_RL[: one.num_rows, : one.num_keys] = ~one.visible(window)
            hidden_RL[one.num_rows :, 0] = False  # a padding row must see something finite
        mask_BRL = torch.zeros(shape)
        mask_BRL.masked_fill_(torch.from_numpy(hidden_BRL), -torch.inf)
        return mask_BRL.repeat(1, heads_per_key, 1).unsqueeze(1).to(self._device)


def _split_by_size(rows: Sequence[SequenceRows]) -> list[list[int]]:
    """Which sequences share a call, so that all calls together take least: padding to the most rows
    and the most keys of a group costs time, and so does another call.

    In the order of their rows, then of their keys, groups are neighbours: the best split of the
    first n is the best one of some fewer with one more group behind it.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].num_rows, rows[i].num_keys))
    rows_N, keys_N = (
        np.array([getattr(rows[i], name) for i in order], np.int64)
        for name in ("num_rows", "num_keys")
    )
    least = np.zeros(len(rows) + 1)
    begins = [0] * (len(rows) + 1)
    for end in range(1, len(rows) + 1):
        longest = np.maximum.accumulate(keys_N[:end][::-1])[::-1]
        sizes = np.arange(end, 0, -1)
        costs = least[:end] + CALL + sizes * longest * (KEY + PAIR * rows_N[end - 1])
        begins[end] = int(costs.argmin())
        least[end] = costs[begins[end]]
    groups: list[list[int]] = []
    end = len(rows)
    while end:
        groups.append(sorted(order[begins[end] : end]))
        end = begins[end]
    return groups


def _pad(array: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    if len(array) == length:
        return array
    padded = np.full(length, array[0], np.int64)
    padded[: len(array)] = array
    return padded
