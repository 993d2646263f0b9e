"""As the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cast_kernels.parity import expect_equal
from cast_kernels.tree_accept.reference import tree_accept


def sample(
    sizes: Sequence[int], vocabulary: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choices, tokens, parents and where trees begin; trees of `sizes` rows. So few tokens that
    siblings repeat and walks go deep."""
    generator = torch.Generator().manual_seed(seed)

    def below(bound: int) -> int:
        return int(torch.randint(bound, (), generator=generator))

    parents = [below(min(row, 4)) if row else -1 for size in sizes for row in range(size)]
    token_N = torch.randint(vocabulary, (sum(sizes),), generator=generator)
    chosen_N = torch.randint(vocabulary, (sum(sizes),), generator=generator)
    cu_rows_B1 = torch.tensor([0, *sizes]).cumsum(0).int()
    return chosen_N, token_N, torch.tensor(parents, dtype=torch.int32), cu_rows_B1


def check(
    function: Callable[..., tuple[Tensor, Tensor, Tensor]],
    chosen_N: Tensor,
    token_N: Tensor,
    parent_N: Tensor,
    cu_rows_B1: Tensor,
    max_rows: int,
    max_depth: int,
) -> None:
    """Raises `MismatchError`."""
    arguments = (chosen_N, token_N, parent_N, cu_rows_B1, max_rows, max_depth)
    names = ("paths", "numbers of accepted rows", "bonus tokens")
    for what, out, right in zip(names, function(*arguments), tree_accept(*arguments), strict=True):
        expect_equal(what, out, right)
