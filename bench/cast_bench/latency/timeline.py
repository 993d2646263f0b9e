"""When the tokens of a batch's requests came."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from cast_bench.latency.iteration import Times


@dataclass(slots=True)
class Timeline:
    """All times are seconds since the batch began."""

    arrivals: list[list[tuple[float, int]]]

    @classmethod
    def of(cls, batch_size: int) -> Timeline:
        return cls([[] for _ in range(batch_size)])

    def add(self, index: int, seconds: float, num_tokens: int) -> None:
        if num_tokens:
            self.arrivals[index].append((seconds, num_tokens))

    def times(self) -> Times:
        gaps: Counter[float] = Counter()
        per_token = []
        for arrivals in self.arrivals:
            gaps[0.0] += arrivals[0][1] - 1  # came with the first one
            for (before, _), (after, count) in pairwise(arrivals):
                gaps[(after - before) / count] += count
            later = sum(count for _, count in arrivals) - 1
            if later:
                per_token.append((arrivals[-1][0] - arrivals[0][0]) / later)
        return Times(
            ttft=tuple(arrivals[0][0] for arrivals in self.arrivals),
            tpot=tuple(per_token),
            e2el=tuple(arrivals[-1][0] for arrivals in self.arrivals),
            itl=tuple((gap, count) for gap, count in sorted(gaps.items()) if count),
        )
