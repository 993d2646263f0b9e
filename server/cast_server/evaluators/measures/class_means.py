"""Mean hidden states by the token that comes next, over many texts, without keeping the states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor


def next_token_classes(
    texts: Sequence[Sequence[int]], most: int, least_count: int = 2
) -> tuple[list[int], int]:
    """The commonest next tokens and how many there are in all with at least `least_count`
    positions. At most `most`, the commonest first, the lower id where counts are the same."""
    counts = Counter(token for text in texts for token in text[1:])
    common = [token for token, count in counts.items() if count >= least_count]
    return sorted(common, key=lambda token: (-counts[token], token))[:most], len(common)


class ClassMeans:
    """Sums as texts come. Not for several threads."""

    def __init__(self, classes: Sequence[int], hidden_size: int) -> None:
        self._rows = {token: row for row, token in enumerate(classes)}
        self._sums_CE = torch.zeros(len(classes), hidden_size, dtype=torch.float64)
        self._counts_C = torch.zeros(len(classes), dtype=torch.float64)

    def add(self, token_ids: Sequence[int], hidden_NE: Tensor) -> None:
        """A text and its final hidden states; the last one has no next token."""
        found = [
            (position, self._rows[token])
            for position, token in enumerate(token_ids[1:])
            if token in self._rows
        ]
        if not found:
            return
        positions_N, rows_N = torch.tensor(found).T
        self._sums_CE.index_add_(0, rows_N, hidden_NE.to("cpu", torch.float64)[positions_N])
        self._counts_C.index_add_(0, rows_N, torch.ones(len(found), dtype=torch.float64))

    @property
    def num_positions(self) -> int:
        return int(self._counts_C.sum())

    def centred(self) -> Tensor:
        """float64 [C, E]: means less the mean of the means, every class counting the same.

        Without centring all of them point the same way, and HDR is another number altogether.
        """
        means_CE = self._sums_CE / self._counts_C[:, None]
        return means_CE - means_CE.mean(0)
