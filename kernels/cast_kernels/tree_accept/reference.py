"""One tree after the other, one level after the other."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def tree_accept(
    chosen_N: Tensor,
    token_N: Tensor,
    parent_N: Tensor,
    cu_rows_B1: Tensor,
    max_rows: int,
    max_depth: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See the package."""
    paths, bonuses = [], []
    for begin, end in pairwise(cu_rows_B1.tolist()):
        assert end - begin <= max_rows, (begin, end, max_rows)
        rows = slice(begin, end)
        path, bonus = _walk(
            chosen_N[rows].tolist(), token_N[rows].tolist(), parent_N[rows].tolist(), max_depth
        )
        paths.append(path)
        bonuses.append(bonus)
    padded = [path + [-1] * (max_depth - len(path)) for path in paths]
    path_BD = torch.tensor(padded, dtype=torch.int32).view(len(paths), max_depth)
    num_accepted_B = torch.tensor([len(path) for path in paths], dtype=torch.int32)
    bonus_B = torch.tensor(bonuses, dtype=torch.int64)
    device = chosen_N.device
    return path_BD.to(device), num_accepted_B.to(device), bonus_B.to(device)


def _walk(
    chosen: list[int], tokens: list[int], parents: list[int], max_depth: int
) -> tuple[list[int], int]:
    """The accepted rows of one tree and the choice behind the last."""
    if not chosen:
        return [], -1
    children: dict[tuple[int, int], int] = {}
    for row in range(1, len(parents)):
        children.setdefault((parents[row], tokens[row]), row)
    path: list[int] = []
    row = 0
    while len(path) < max_depth and (row, chosen[row]) in children:
        row = children[row, chosen[row]]
        path.append(row)
    return path, chosen[row]
