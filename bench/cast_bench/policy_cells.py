"""What one policy did in one round on one data set, and where its outputs part from those of `off`.

Three pairs of tokens and seconds are kept. Full, decoding steps give the speed. All decoding steps
take in the tail, in which fast requests have ended and the batch is smaller; the whole time takes
in what is left of prefill too. Where the speed of the first pair is far from the others, a policy
owes it to what was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest


@dataclass(frozen=True, slots=True)
class Difference:
    """The first position at which an output is not that of `off`; None: that output has ended."""

    request: int
    prompt: int
    position: int
    plain_token: int | None
    token: int | None


@dataclass(slots=True)
class Cell:
    """`tokens`, `seconds` and all counts without another name are of full, decoding steps."""

    dataset: str
    batch_size: int
    policy: str
    round: int
    tokens: int = 0
    seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    whole_tokens: int = 0
    whole_seconds: float = 0.0
    steps: int = 0
    predicted_seconds: float = 0.0
    draft_tokens: int = 0
    accepted: int = 0
    expected: float = 0.0
    errors: list[float] = field(default_factory=list)  # |predicted - actual| / actual, a step
    different: int = 0  # outputs that are not those of `off`
    differences: list[Difference] = field(default_factory=list)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def busy_speed(self) -> float:
        """All steps but decoding ones of the tail, which a policy under which all requests end
        together does not have."""
        tail_tokens = self.decode_tokens - self.tokens
        tail_seconds = self.decode_seconds - self.seconds
        seconds = self.whole_seconds - tail_seconds
        return (self.whole_tokens - tail_tokens) / seconds if seconds else 0.0

    @property
    def whole_speed(self) -> float:
        return self.whole_tokens / self.whole_seconds if self.whole_seconds else 0.0

    def compare(
        self, outputs: Sequence[list[int]], plain: Sequence[list[int]], num_prompts: int
    ) -> None:
        """Notes the differences to the outputs of `off`, request by request."""
        for request, (one, other) in enumerate(zip(outputs, plain, strict=True)):
            pairs = enumerate(zip_longest(one, other))
            parted = next(((at, a, b) for at, (a, b) in pairs if a != b), None)
            if parted is not None:
                at, token, plain_token = parted
                prompt = request % num_prompts
                self.differences.append(Difference(request, prompt, at, plain_token, token))
        self.different = len(self.differences)
