"""Which prefix the head's entry in a cache slot belongs to: so it knows what it has missed."""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cast_drafters.base import DraftContext

_MASK: Final = (1 << 63) - 1


class Stamps:
    """A number for each prefix of a sequence, noted at the slot of its last token; 0 for none."""

    def __init__(self, num_slots: int) -> None:
        self.stamp_S = np.zeros(num_slots, np.int64)
        self.prefixes: dict[str, array[int]] = {}

    def begin(self, request_id: str) -> None:
        self.prefixes[request_id] = array("q")

    def release(self, request_id: str) -> None:
        self.prefixes.pop(request_id, None)

    def mark(self, context: DraftContext, begin: int, end: int) -> None:
        """The head has computed the positions [begin, end)."""
        self.stamp_S[context.slots_L[begin:end]] = self._of(context)[begin:end]

    def first_missing(self, context: DraftContext) -> int:
        """The first position from 1 on that the head has to compute, at most the last one."""
        known = self.stamp_S[context.slots_L[1:-1]] == self._of(context)[1:-1]
        return 1 + int(known.argmin() if not known.all() else len(known))

    def _of(self, context: DraftContext) -> NDArray[np.int64]:
        stamps = self.prefixes.setdefault(context.request_id, array("q"))
        last = stamps[-1] if stamps else 1
        for token in context.token_ids[len(stamps) :]:
            last = hash((last, token)) & _MASK or 1
            stamps.append(last)
        return np.frombuffer(stamps, np.int64)  # a view: texts are long and steps are many
