"""Who gets rows in the next step. Pure bookkeeping, no tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from cast_server.engine.block_pool import BlockPool, OutOfBlocksError
from cast_server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Scheduled:
    """`num_tokens` pending tokens of a sequence, and how many draft rows it may add."""

    sequence: Sequence
    num_tokens: int
    max_draft_rows: int = 0

    @property
    def reaches_end(self) -> bool:
        """Whether the step computes the sequence's last token, and so chooses the next."""
        return self.num_tokens == self.sequence.num_pending

    @property
    def unread(self) -> range:
        """Positions in the step whose logits are wanted for the prompt's log-probabilities: each
        tells of the token behind it."""
        sequence = self.sequence
        end = min(sequence.num_computed + self.num_tokens, sequence.num_prompt - 1)
        return range(max(sequence.num_computed, sequence.num_read), end)


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Sizes of one step; rows count prefill chunks, roots and drafts alike."""

    max_num_seqs: int
    max_batched_tokens: int
    max_draft_rows: int
    max_model_len: int
    prefix_caching: bool


class Scheduler:
    """First come, first served. Running sequences go first; the youngest gives way.

    `behind`: who schedules other sequences of the same pool, which give way before these do.
    """

    def __init__(
        self, pool: BlockPool, limits: SchedulerLimits, behind: Scheduler | None = None
    ) -> None:
        self.pool = pool
        self.limits = limits
        self.behind = behind
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out, whatever its state, and frees its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        sequence.release(self.pool)

    def schedule(self) -> list[Scheduled]:
        """The next step. May preempt; empty only if nothing is running or can start."""
        chosen = self._continue_running()
        budget = self.limits.max_batched_tokens - sum(one.num_tokens for one in chosen)
        chosen += self._admit(budget)
        return self._allow_drafts(chosen)

    def _continue_running(self) -> list[Scheduled]:
        chosen: list[Scheduled] = []
        budget = self.limits.max_batched_tokens
        index = 0
        while index < len(self.running) and budget > 0:
            sequence = self.running[index]
            count = min(sequence.num_pending, budget)
            if not self._make_room(sequence, sequence.num_computed + count):
                continue  # it gave way itself, so the list has become shorter
            chosen.append(Scheduled(sequence, count))
            budget -= count
            index += 1
        return chosen

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        while True:
            try:
                self._reserve(sequence, num_tokens)
            except OutOfBlocksError:
                youngest = self.running[-1]
                self.give_way()
                if youngest is sequence:
                    return False
            else:
                return True

    def _reserve(self, sequence: Sequence, num_tokens: int) -> None:
        """Raises `OutOfBlocksError` when nobody behind is left to give way."""
        while True:
            try:
                return sequence.reserve(self.pool, num_tokens)
            except OutOfBlocksError:
                if self.behind is None or not self.behind.running:
                    raise
                self.behind.give_way()

    def give_way(self) -> None:
        """The youngest running sequence gives its blocks up and is computed again later."""
        self._preempt(self.running[-1])

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.release(self.pool)
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1

    def _admit(self, budget: int) -> list[Scheduled]:
        chosen: list[Scheduled] = []
        coming = self._coming_prefixes()
        held_back: list[Sequence] = []
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            sequence = self.waiting.popleft()
            if self._will_be_cached(sequence, coming):
                held_back.append(sequence)
                continue
            if not self._start(sequence):
                self.waiting.appendleft(sequence)
                break
            count = min(sequence.num_pending, budget)
            chosen.append(Scheduled(sequence, count))
            budget -= count
            coming |= self._uncomputed_prefixes(sequence)
        self.waiting.extendleft(reversed(held_back))
        return chosen

    def _start(self, sequence: Sequence) -> bool:
        """Takes blocks for all pending tokens, lest a prompt just begun be preempted."""
        if self.limits.prefix_caching:
            sequence.share_prefix(self.pool)
        try:
            self._reserve(sequence, len(sequence.token_ids))
        except OutOfBlocksError:
            sequence.release(self.pool)
            return False
        self.running.append(sequence)
        return True

    def _coming_prefixes(self) -> set[bytes]:
        """Blocks that running prefills will complete: whoever shares them does better to wait."""
        coming: set[bytes] = set()
        for sequence in self.running:
            if not sequence.is_decoding:
                coming |= self._uncomputed_prefixes(sequence)
        return coming

    def _uncomputed_prefixes(self, sequence: Sequence) -> set[bytes]:
        size = self.pool.block_size
        digests = sequence.digests(self.pool, len(sequence.token_ids) // size)
        return set(digests[sequence.num_computed // size :])

    def _will_be_cached(self, sequence: Sequence, coming: set[bytes]) -> bool:
        if not self.limits.prefix_caching or not coming:
            return False
        reusable = sequence.num_reusable // self.pool.block_size
        return any(digest in coming for digest in sequence.digests(self.pool, reusable))

    def num_spare(self, chosen: Seq[Scheduled]) -> int:
        """Rows left for drafts: these never displace a token and never preempt."""
        decoding = sum(one.sequence.is_decoding for one in chosen)
        spare = self.limits.max_batched_tokens - sum(one.num_tokens for one in chosen)
        return max(0, min(spare, self.limits.max_draft_rows - decoding))

    def _allow_drafts(self, chosen: Seq[Scheduled]) -> list[Scheduled]:
        return [
            Scheduled(one.sequence, 1, self._useful_draft_rows(one.sequence))
            if one.sequence.is_decoding
            else one
            for one in chosen
        ]

    def _useful_draft_rows(self, sequence: Sequence) -> int:
        """No more than can still be generated, counting the bonus token."""
        if sequence.params.max_tokens - sequence.num_output <= 1:
            return 0
        return max(0, self.limits.max_model_len - len(sequence.token_ids))
