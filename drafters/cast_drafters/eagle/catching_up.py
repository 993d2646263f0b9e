"""How a head comes to know the tokens that were committed since it last drafted for a sequence.

Of a row that nothing is drafted behind, later rows see its keys and values only; these depend on no
other row, so that most of the head's layer need not be computed for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.base import DraftContext
from cast_drafters.eagle.passes import HeadPasses, Level
from cast_drafters.eagle.served import HeadRows, ServedHead
from cast_drafters.eagle.stamps import Stamps
from cast_kernels.tree_attention import SequenceRows

_FEW: Final = 8  # rows of a sequence that are not worth a call of their own
_NONE: Final = np.empty(0, np.int64)
_NO_ROWS: Final = SequenceRows(_NONE, np.empty((0, 0), np.bool_), _NONE)


@dataclass(frozen=True, slots=True)
class _Span:
    """Positions [begin, end) of a sequence."""

    context: DraftContext
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def is_current(self) -> bool:
        return self.end == len(self.context.token_ids)


@dataclass(frozen=True, slots=True)
class CatchingUp:
    """At most `most` tokens of a sequence in a step."""

    head: ServedHead
    passes: HeadPasses
    stamps: Stamps
    most: int

    def work(self, context: DraftContext) -> int:
        """How many rows of a level take as long."""
        missing = len(context.token_ids) - self.stamps.first_missing(context)
        if missing <= _FEW:
            return missing
        return 1 + math.ceil(min(self.most, missing - 1) * self.head.remembering_share)

    def missing(self, context: DraftContext) -> int:
        """Tokens that the head has not seen, the last one among them."""
        return len(context.token_ids) - self.stamps.first_missing(context)

    def level(self, contexts: Sequence[DraftContext | None]) -> Level:
        """What `run` does as one pass, whose rows are all wanted or seen by what is: places without
        a context have no rows, and nothing is kept of what is behind them."""
        spans = [None if one is None else self._whole(one) for one in contexts]
        real = [span for span in spans if span is not None]
        rows, before_N = _rows(real, [_NO_ROWS if one is None else _chain(one) for one in spans])
        sizes = [0 if one is None else len(one) for one in spans]
        return Level(
            rows,
            before_N,
            wanted_R=np.maximum(np.cumsum(sizes, dtype=np.int64) - 1, 0),
            keep_R=np.array([-1 if one is None else one.slots_L[-1] for one in contexts], np.int64),
        )

    def mark(self, contexts: Sequence[DraftContext | None]) -> None:
        """The pass of `level` is on its way."""
        for one in contexts:
            if one is not None:
                self.stamps.mark(one, self.stamps.first_missing(one), len(one.token_ids))

    def run(self, contexts: Sequence[DraftContext]) -> tuple[Tensor, list[int]]:
        """The logits of what follows the last rows of those that are up to date now, and which
        those are."""
        spans = [self._span(one) for one in contexts]
        parts = [_split(span) for span in spans]
        far = [behind for behind, _ in parts if len(behind)]
        if far:
            self.head.remember(*_rows(far))
        current = [i for i, span in enumerate(spans) if span.is_current]
        near = [parts[i][1] for i in current]
        logits_RV = self._run(near) if near else self.head.no_logits()
        for span in spans:
            self.stamps.mark(span.context, span.begin, span.end)
        return logits_RV, current

    def _whole(self, context: DraftContext) -> _Span:
        return _Span(context, self.stamps.first_missing(context), len(context.token_ids))

    def _span(self, context: DraftContext) -> _Span:
        begin = self.stamps.first_missing(context)
        return _Span(context, begin, min(len(context.token_ids), begin + self.most))

    def _run(self, spans: Sequence[_Span]) -> Tensor:
        rows, before_N = _rows(spans, [_chain(span) for span in spans])
        sizes = [len(span) for span in spans]
        last_slots = [span.context.slots_L[-1] for span in spans]
        return self.passes.run(
            Level(
                rows,
                before_N,
                wanted_R=np.cumsum(sizes, dtype=np.int64) - 1,
                keep_R=np.array(last_slots, np.int64),
            )
        )


def _split(span: _Span) -> tuple[_Span, _Span]:
    """What is no more than remembered, and what is followed by something."""
    middle = span.end - 1 if span.is_current else span.end
    if span.is_current and len(span) <= _FEW:
        middle = span.begin
    return _Span(span.context, span.begin, middle), _Span(span.context, middle, span.end)


def _rows(
    spans: Sequence[_Span], sequences: Sequence[SequenceRows] = ()
) -> tuple[HeadRows, NDArray[np.int64]]:
    """And the slots of the states before them."""
    tokens, positions, slots, before = [], [], [], []
    for span in spans:
        one, begin, end = span.context, span.begin, span.end
        tokens.append(np.array(one.token_ids[begin:end], np.int64))
        positions.append(np.arange(begin - 1, end - 1))
        slots.append(one.slots_L[begin:end])
        before.append(one.slots_L[begin - 1 : end - 1])
    join = np.concatenate
    return HeadRows(join(tokens), join(positions), join(slots), sequences), join(before)


def _chain(span: _Span) -> SequenceRows:
    chain_RR = np.tri(len(span), dtype=np.bool_)
    return SequenceRows(span.context.slots_L[1 : span.end], chain_RR, np.arange(len(span)))
