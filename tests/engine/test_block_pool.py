"""Who owns which block, against a model that keeps the books in plain dictionaries."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cast_server.engine.block_pool import BlockPool, OutOfBlocksError, prefix_digest

NUM_BLOCKS, BLOCK_SIZE = 9, 4
DIGESTS = [bytes([i]) for i in range(6)]


class Books(RuleBasedStateMachine):
    """Owners hold lists of blocks. What a block holds is fixed while somebody holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, BLOCK_SIZE)
        self.owners: list[list[int]] = []
        self.content: dict[int, bytes] = {}  # what was last remembered of a block

    def held(self) -> set[int]:
        return {block for blocks in self.owners for block in blocks}

    @rule(count=st.integers(0, NUM_BLOCKS + 2))
    def allocate(self, count) -> None:
        held = self.held()
        if count > NUM_BLOCKS - len(held):
            with pytest.raises(OutOfBlocksError):
                self.pool.allocate(count)
            return
        blocks = self.pool.allocate(count)
        assert len(set(blocks)) == count
        assert not held & set(blocks), "a block in use was handed out"
        for block in blocks:
            self.content.pop(block, None)
        self.owners.append(blocks)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def release_end(self, data) -> None:
        """As `trim` does, or all of it, as the end of a request does."""
        index = data.draw(st.integers(0, len(self.owners) - 1))
        blocks = self.owners[index]
        keep = data.draw(st.integers(0, len(blocks)))
        self.pool.release(blocks[keep:])
        del blocks[keep:]
        if not blocks:
            del self.owners[index]

    @precondition(lambda self: self.held())
    @rule(data=st.data(), digest=st.sampled_from(DIGESTS))
    def remember(self, data, digest) -> None:
        block = data.draw(st.sampled_from(sorted(self.held())))
        self.pool.remember(block, digest)
        if block not in self.content and digest not in self.content.values():
            self.content[block] = digest

    @rule(digests=st.lists(st.sampled_from(DIGESTS), max_size=4, unique=True))
    def share(self, digests) -> None:
        block_of = {digest: block for block, digest in self.content.items()}
        expected = []
        for digest in digests:
            if digest not in block_of:
                break
            expected.append(block_of[digest])
        shared = self.pool.share(digests)
        assert shared == expected
        if shared:
            self.owners.append(shared)

    @invariant()
    def free_and_held_are_all(self) -> None:
        assert self.pool.num_free == NUM_BLOCKS - len(self.held())

    def teardown(self) -> None:
        for blocks in self.owners:
            self.pool.release(blocks)
        assert self.pool.num_free == NUM_BLOCKS
        assert sorted(self.pool.allocate(NUM_BLOCKS)) == list(range(NUM_BLOCKS))


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def test_a_released_prefix_is_found_again() -> None:
    pool = BlockPool(4, 2)
    blocks = pool.allocate(2)
    pool.remember(blocks[0], b"a")
    pool.remember(blocks[1], b"ab")
    pool.release(blocks)
    assert pool.num_free == 4
    assert pool.share([b"a", b"ab", b"abc"]) == blocks
    assert pool.num_free == 2


def test_cached_blocks_are_handed_out_last_and_the_end_of_a_prefix_first() -> None:
    pool = BlockPool(4, 2)
    blocks = pool.allocate(2)
    pool.remember(blocks[0], b"a")
    pool.remember(blocks[1], b"ab")
    pool.release(blocks)
    assert not set(pool.allocate(2)) & set(blocks)
    assert pool.allocate(1) == [blocks[1]]
    assert pool.share([b"a", b"ab"]) == [blocks[0]]


def test_of_equal_blocks_the_first_is_kept() -> None:
    pool = BlockPool(4, 2)
    first, second = pool.allocate(2)
    pool.remember(first, b"a")
    pool.remember(second, b"a")
    assert pool.share([b"a"]) == [first]


def test_a_second_release_is_noticed() -> None:
    pool = BlockPool(4, 2)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(blocks)


def test_blocks_for_rounds_up() -> None:
    pool = BlockPool(4, 16)
    assert [pool.blocks_for(n) for n in (0, 1, 16, 17, 32)] == [0, 1, 1, 2, 2]


def test_digests_name_all_tokens_before() -> None:
    one, two = prefix_digest(b"", [1, 2]), prefix_digest(b"", [2, 1])
    assert len({one, two, prefix_digest(one, [3, 4]), prefix_digest(two, [3, 4])}) == 4
    assert prefix_digest(one, [3, 4]) == prefix_digest(prefix_digest(b"", (1, 2)), (3, 4))
