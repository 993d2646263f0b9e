"""A request on its way: its tokens, its place in the KV cache, its text and its counts."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from cast_drafters.policy import Policy
from cast_drafters.tree import SOURCES, DraftTree
from cast_server.engine.block_pool import BlockPool, prefix_digest
from cast_server.engine.detokenizer import TextStream
from cast_server.engine.grammar_state import GrammarState
from cast_server.engine.request import FinishReason, Request, SpeculationStats
from cast_server.engine.timings import Stopwatch


class Sequence:
    """Tokens `[0, num_computed)` have their keys and values in the cache; the rest is pending.

    A decoding sequence has one pending token, its last. `stop_ids` end it, from `min_tokens` on.
    Of the prompt's tokens after the first, `num_read` need no log-probability any more.
    """

    def __init__(
        self,
        request: Request,
        policy: Policy,
        stop_ids: frozenset[int],
        text: TextStream,
        grammar: GrammarState | None = None,
    ) -> None:
        self.request = request
        self.params = request.params
        self.watch = Stopwatch(request.arrival_time)
        self.policy = policy
        self.stop_ids = stop_ids
        self.text = text
        self.grammar = grammar
        self.token_ids = list(request.prompt_token_ids)
        self.num_prompt = len(self.token_ids)
        self.num_computed = 0
        self.num_cached = 0
        self.num_read = 0 if self.params.prompt_logprobs is not None else self.num_prompt - 1
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.output_counts: Counter[int] = Counter()
        self.blocks: list[int] = []
        self._slots_L = np.empty(0, np.int64)
        self._digests: list[bytes] = []
        self._drafted = 0
        self._expected = self._predicted = self._seconds = 0.0
        self._histogram: Counter[int] = Counter()
        self._drafted_by_S = np.zeros(len(SOURCES), np.int64)
        self._accepted_by_S = np.zeros(len(SOURCES), np.int64)
        self._steps: list[tuple[int, int]] = []

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def num_pending(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def is_decoding(self) -> bool:
        return self.num_pending == 1 and self.num_output > 0

    @property
    def num_reusable(self) -> int:
        """Tokens at the beginning that nobody has to compute where their keys are cached: not the
        last, which chooses the next, and none that a log-probability is still to be read from."""
        is_read = self.num_read >= self.num_prompt - 1
        return len(self.token_ids) - 1 if is_read else self.num_read

    # Tokens

    def append(self, token_ids: list[int]) -> tuple[list[int], str]:
        """Commits tokens up to the first stop. Returns those kept and the text that is now safe."""
        text = ""
        if not self.params.max_tokens:
            self.finish_reason = "length"  # it was to be read only
            return [], text
        for kept, token_id in enumerate(token_ids, start=1):
            self.token_ids.append(token_id)
            self.output_counts[token_id] += 1
            text += self._read(token_id)
            if self.finish_reason is not None:
                return token_ids[:kept], text + self.text.flush()
        return token_ids, text

    def _read(self, token_id: int) -> str:
        is_complete = self.grammar is not None and self.grammar.commit(token_id)
        may_stop = is_complete or self.num_output >= self.params.min_tokens
        if may_stop and token_id in self.stop_ids:
            self.finish_reason = "stop"
            self.stop_reason = token_id if token_id in self.params.stop_token_ids else None
            return ""
        text, stop = self.text.push(token_id, may_stop)
        if stop is not None:
            self.finish_reason, self.stop_reason = "stop", stop
        elif is_complete:
            self.finish_reason = "stop"
        elif self.num_output >= self.params.max_tokens:
            self.finish_reason = "length"
        return text

    def count_step(
        self, num_drafted: int, num_accepted: int, expected: float, predicted: float, seconds: float
    ) -> None:
        """A step that it decoded in; `predicted` and actual `seconds` are the step's."""
        self._drafted += num_drafted
        self._histogram[num_accepted] += 1
        self._expected += expected
        self._predicted += predicted
        self._seconds += seconds
        if self.request.speculation.per_step:
            self._steps.append((num_drafted, num_accepted))

    def count_sources(self, tree: DraftTree, accepted: list[int]) -> None:
        """Who had guessed the nodes of a verified tree, and those of them that are output now."""
        if not len(tree):
            return
        sources_T = np.zeros(len(tree), np.int8) if tree.sources_T is None else tree.sources_T
        self._drafted_by_S += np.bincount(sources_T, minlength=len(SOURCES))
        self._accepted_by_S += np.bincount(sources_T[accepted], minlength=len(SOURCES))

    def speculation(self) -> SpeculationStats:
        counts = tuple(self._histogram[k] for k in range(max(self._histogram, default=0) + 1))
        return SpeculationStats(
            policy=self.policy.name,
            num_spec_steps=sum(counts),
            num_draft_tokens=self._drafted,
            num_accepted_draft_tokens=sum(k * count for k, count in enumerate(counts)),
            histogram=counts,
            num_expected_draft_tokens=self._expected,
            predicted_seconds=self._predicted,
            seconds=self._seconds,
            num_spec_tokens=self.policy.size,
            drafted_by=tuple(self._drafted_by_S.tolist()),
            accepted_by=tuple(self._accepted_by_S.tolist()),
            per_step=tuple(self._steps) if self.finish_reason is not None else (),
        )

    # Place in the KV cache

    def slots(self, begin: int, end: int) -> NDArray[np.int64]:
        """Cache slots of the positions [begin, end)."""
        return self._slots_L[begin:end]

    def reserve(self, pool: BlockPool, num_tokens: int) -> None:
        """Makes room for `num_tokens` in all, or raises `OutOfBlocksError`."""
        missing = pool.blocks_for(num_tokens) - len(self.blocks)
        if missing > 0:
            self._adopt(pool, pool.allocate(missing))

    def share_prefix(self, pool: BlockPool) -> None:
        """Starts from cached blocks; tokens whose logits are wanted are left to compute."""
        reusable = self.num_reusable // pool.block_size
        self._adopt(pool, pool.share(self.digests(pool, reusable)))
        self.num_computed = len(self.blocks) * pool.block_size
        self.num_cached = max(self.num_cached, min(self.num_computed, self.num_prompt))

    def advance(self, num_tokens: int) -> None:
        """So many more tokens are computed, and what is wanted of their logits has been read."""
        self.num_computed += num_tokens
        self.num_read = max(self.num_read, min(self.num_computed, self.num_prompt - 1))

    def publish_prefix(self, pool: BlockPool, computed_before: int) -> None:
        """Makes the blocks that have become full since then available to others."""
        first, last = computed_before // pool.block_size, self.num_computed // pool.block_size
        for index, digest in enumerate(self.digests(pool, last)[first:last], start=first):
            pool.remember(self.blocks[index], digest)

    def trim(self, pool: BlockPool) -> None:
        """Returns blocks that only rejected drafts had used."""
        needed = pool.blocks_for(len(self.token_ids))
        if len(self.blocks) > needed:
            pool.release(self.blocks[needed:])
            del self.blocks[needed:]
            self._slots_L = self._slots_L[: needed * pool.block_size]

    def release(self, pool: BlockPool) -> None:
        """Gives all blocks back; what was computed has to be computed again."""
        pool.release(self.blocks)
        self.blocks = []
        self._slots_L = np.empty(0, np.int64)
        self.num_computed = 0

    def digests(self, pool: BlockPool, count: int) -> list[bytes]:
        """Names of the first `count` full blocks."""
        size = pool.block_size
        for index in range(len(self._digests), count):
            parent = self._digests[-1] if self._digests else b""
            block = self.token_ids[index * size : (index + 1) * size]
            self._digests.append(prefix_digest(parent, block))
        return self._digests[:count]

    def _adopt(self, pool: BlockPool, blocks: list[int]) -> None:
        self.blocks += blocks
        first_slots = np.array(blocks, np.int64)[:, None] * pool.block_size
        new_slots = (first_slots + np.arange(pool.block_size)).reshape(-1)
        self._slots_L = np.concatenate([self._slots_L, new_slots])
