"""Moves the keys and values of an accepted path to contiguous slots.

    kv_commit(kv_cache_YS2KD, source_M, target_M)

kv_cache_YS2KD: all Y layers, written in place. source_M, target_M: int64 slots, each target at most
once; sources are read before any target is written, so overlapping moves are safe.
Both may also be [B, M], the moves of B sequences, none of which touches another's slots; a source
of -1 is no move.
"""

from cast_kernels.kv_commit.reference import kv_commit

__all__ = ["kv_commit"]
