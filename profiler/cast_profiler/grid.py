"""Which passes to time: rows, then context, then number of sequences, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

# Powers of two and what lies between them; one more row where kernels switch their tiles.
ROWS: Final = (1, 2, 3, 4, 6, 8, 9, 12, 16, 17, 24, 32, 33, 48, 64, 96, 128, 192, 256, 384, 512)
QUICK_ROWS: Final = (1, 2, 4, 8, 9, 12, 16, 17, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
SEQUENCES: Final = (2, 4, 8, 16, 32)
QUICK_SEQUENCES: Final = (4, 16)
_ROWS_OF_ALL_CONTEXTS: Final = 8


@dataclass(frozen=True, slots=True)
class GridPoint:
    """A pass over `rows` rows in all, of `sequences` sequences with `context` tokens each."""

    rows: int
    sequences: int
    context: int

    @property
    def keys(self) -> int:
        """Tokens of context attended to, of all sequences."""
        return self.sequences * self.context

    @property
    def rows_by_sequence(self) -> list[int]:
        """The rows shared out as evenly as can be."""
        share, rest = divmod(self.rows, self.sequences)
        return [share + (index < rest) for index in range(self.sequences)]


def make_grid(
    max_rows: int,
    contexts: Sequence[int],
    fits: Callable[[GridPoint], bool],
    *,
    max_sequences: int = 1,
    quick: bool = False,
    buckets: Sequence[int] = (),
) -> list[GridPoint]:
    """The points that fit, each once; empty if none does.

    One sequence: every number of rows up to `max_rows` (itself included) at the first of
    `contexts`, and at the others too, or if `quick` at 8 rows only. Where passes are padded to
    `buckets`, these are the numbers of rows, up to the one that `max_rows` is padded to. Several
    sequences, at most `max_sequences`: one row each and four rows each, at the first context.
    """
    largest = next((rows for rows in buckets if rows >= max_rows), max_rows)
    usual = QUICK_ROWS if quick else ROWS
    counts = [rows for rows in buckets or usual if rows < largest] + [largest]
    points = [GridPoint(rows, 1, contexts[0]) for rows in counts]
    few = [rows for rows in counts if rows >= _ROWS_OF_ALL_CONTEXTS][:1] or counts[-1:]
    some = few if quick else counts
    points += [GridPoint(rows, 1, context) for context in contexts[1:] for rows in some]
    for sequences in QUICK_SEQUENCES if quick else SEQUENCES:
        if sequences <= max_sequences:
            points += [
                GridPoint(rows, sequences, contexts[0])
                for rows in (sequences, 4 * sequences)
                if rows <= largest
            ]
    return [point for point in dict.fromkeys(points) if fits(point)]


def most_important_first(points: Sequence[GridPoint]) -> list[GridPoint]:
    """Ends, middle and quarters of the first context's curve, and so on; then all other points."""
    curve = [p for p in points if (p.sequences, p.context) == (1, points[0].context)]
    halves = [(0, len(curve) - 1)]
    chosen = [0, len(curve) - 1]
    for low, high in halves:  # grows while it is read
        if high - low > 1:
            middle = (low + high) // 2
            chosen.append(middle)
            halves += [(low, middle), (middle, high)]
    return list(dict.fromkeys([*(curve[index] for index in chosen), *points]))
