"""Where an answer is in its grammar: after what is committed, and along paths of drafts."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Seq

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from cast_server.errors import RequestError


class GrammarState:
    """One sequence's. What is allowed depends on the grammar and on the tokens before alone, never
    on what else was asked, so that drafts change nothing.

    Ends (`end_ids`) are allowed where the text may stop; with `avoids_ends`, and for tokens that
    are unwanted, only where nothing else is: the grammar has the last word, and the choice is
    never empty.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        end_ids: frozenset[int],
        vocab_size: int,
        avoids_ends: bool = False,
    ) -> None:
        self._matcher = matcher
        self._end_ids, self._vocab_size = end_ids, vocab_size
        self._unwanted = end_ids if avoids_ends else frozenset()
        self._path: list[int] = []  # where the matcher is, beyond what is committed

    def allowed(self, path: Seq[int], unwanted: Collection[int] = ()) -> NDArray[np.bool_]:
        """Which tokens may follow the committed ones and `path`; bool [V], at least one True.

        Behind the end of the text everything may: it is dropped. Raises `RequestError` where the
        grammar leaves nothing, or has become too complex.
        """
        is_inside = self._go(path)
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed_V = np.unpackbits(packed, count=self._vocab_size, bitorder="little").view(np.bool_)
        if self._matcher.is_error() or (is_inside and not allowed_V.any()):
            reason = self._matcher.get_error() or "the model has no token for what must follow"
            raise RequestError(f"The answer cannot follow its grammar any further: {reason[:300]}.")
        if not is_inside:
            return np.ones(self._vocab_size, np.bool_)
        without = [*self._unwanted, *unwanted]
        if without:
            fewer_V = allowed_V.copy()
            fewer_V[without] = False
            if fewer_V.any():
                return fewer_V
        return allowed_V

    def forced(self, path: Seq[int]) -> int | None:
        """The only token that may follow, where that is known without looking at them all."""
        tokens = self._matcher.compute_ff_tokens() if self._go(path) else []
        return tokens[0] if tokens else None

    def goes_on(self, path: Seq[int]) -> bool:
        """Whether the path is allowed, and is not the end of the text yet."""
        return self._go(path)

    def commit(self, token_id: int) -> bool:
        """Whether the text is over with this token, which was allowed."""
        if token_id in self._end_ids:
            return True
        self._go((token_id,))
        self._path.clear()
        # A matcher that has given up says so when it is asked next, before anything is chosen.
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    def _go(self, path: Seq[int]) -> bool:
        """Moves the matcher; whether there is anything of the text left at the end of the path."""
        shared = _shared(self._path, path)
        if shared < len(self._path):
            self._matcher.rollback(len(self._path) - shared)
            del self._path[shared:]
        for token_id in path[shared:]:
            if self._matcher.is_stopped() or not self._matcher.try_consume_tokens([token_id]):
                return False
            self._path.append(token_id)
        return not self._matcher.is_stopped()


def _shared(a: Seq[int], b: Seq[int]) -> int:
    """How many tokens two paths begin with in common."""
    for count, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return count
    return min(len(a), len(b))
