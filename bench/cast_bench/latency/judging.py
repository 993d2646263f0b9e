"""Are a policy's outputs those of `off`? If not: near ties, or bugs?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from cast_bench.latency.iteration import Difference, Verdict
from cast_bench.lossless import TOLERANCE, explain
from cast_bench.workloads import Prompt
from cast_server.engine.core import EngineCore

_Key = tuple[int, int, int, int]  # prompt, position, both tokens


@dataclass(slots=True)
class Judge:
    """As `cast_bench.lossless` does it: the margin of both tokens' log-probabilities decides.

    That needs a pass of the engine, which is not to be in anyone's time. Sampled tokens are chosen
    by noise too, so margins do not tell: there, a difference in float32 is a bug, and others are
    not judged.
    """

    core: EngineCore
    prompts: Sequence[Prompt]
    is_greedy: bool
    dtype: str
    _margins: dict[_Key, float] = field(default_factory=dict)

    def differences(
        self,
        numbers: Sequence[int],
        outputs: Sequence[Sequence[int]],
        plain: Sequence[Sequence[int]],
    ) -> tuple[Difference, ...]:
        """`numbers` are the prompts of the requests, whose outputs stand side by side."""
        found = []
        for request, (number, one, other) in enumerate(zip(numbers, outputs, plain, strict=True)):
            pairs = enumerate(zip_longest(one, other))
            at = next((at for at, (a, b) in pairs if a != b), None)
            if at is not None:
                found.append(self._difference(request, number, at, list(one), list(other)))
        return tuple(found)

    def _difference(
        self, request: int, number: int, at: int, one: list[int], other: list[int]
    ) -> Difference:
        token = one[at] if at < len(one) else None
        plain_token = other[at] if at < len(other) else None
        margin = None
        if self.is_greedy and token is not None and plain_token is not None:
            margin = self._margin(number, at, one, other)
        return Difference(
            request=request,
            prompt=number,
            position=at,
            plain_token=plain_token,
            token=token,
            margin=margin if margin is not None and math.isfinite(margin) else None,
            verdict=self._verdict(margin, token is None or plain_token is None),
        )

    def _margin(self, number: int, at: int, one: list[int], other: list[int]) -> float:
        key = number, at, one[at], other[at]
        if key not in self._margins:  # a policy parts from `off` there in every round
            ids = list(self.prompts[number].token_ids)
            margin = explain(self.core, number, ids, other, one).margin
            # Neither token among the likeliest: as far from a tie as can be.
            self._margins[key] = math.inf if math.isnan(margin) else margin
        return self._margins[key]

    def _verdict(self, margin: float | None, has_ended: bool) -> Verdict:
        if has_ended:  # no rounding does that: all outputs are equally long
            return "bug"
        if margin is None:
            return "bug" if self.dtype == "float32" else "not judged"
        return "near tie" if margin <= TOLERANCE[self.dtype] else "bug"
