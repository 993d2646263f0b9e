"""Blocks of the KV cache: who holds them, and which hold a prefix that can be used again.

A block is written by one sequence only and shared only when it is full: full blocks never change,
and a sequence's last, partial block is its own. So nothing is ever copied on write.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np


class OutOfBlocksError(Exception):
    """Not enough free blocks. Caught by the scheduler, which makes room or waits."""


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens, with reference counts.

    A free block may still hold a cached prefix; it is handed out last and forgotten then.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks of one owner. Raises `OutOfBlocksError` and then takes none."""
        if count > len(self._free):
            raise OutOfBlocksError(f"{count} blocks asked for, {len(self._free)} free")
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._forget(block)
            self._references[block] = 1
        return blocks

    def release(self, blocks: Sequence[int]) -> None:
        """Gives up one reference to each. Of a prefix, the end is reused before its beginning."""
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} released twice"
            self._references[block] -= 1
            if not self._references[block]:
                self._free[block] = None
                if block not in self._digest_of:
                    self._free.move_to_end(block, last=False)

    def share(self, digests: Iterable[bytes]) -> list[int]:
        """Takes a reference to the cached blocks of the longest known prefix."""
        blocks: list[int] = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            if not self._references[block]:
                del self._free[block]
            self._references[block] += 1
            blocks.append(block)
        return blocks

    def remember(self, block: int, digest: bytes) -> None:
        """The block is full and holds the prefix `digest`. The first block of equals is kept."""
        if digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def _forget(self, block: int) -> None:
        digest = self._digest_of.pop(block, None)
        if digest is not None:
            del self._block_of[digest]


def prefix_digest(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Names a full block by its tokens and all tokens before it."""
    return hashlib.blake2b(parent + np.asarray(token_ids, "<i8").tobytes(), digest_size=16).digest()
