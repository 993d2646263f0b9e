"""Moves the keys and values of an accepted path to contiguous slots.

    kv_commit(kv_cache_YS2KD, source, target)

kv_cache_YS2KD: all Y layers, written in place. source, target: int64 slots of equal length, each
target at most once; sources are read before any target is written, so overlapping moves are safe.
"""

from cast_kernels.kv_commit.reference import kv_commit

__all__ = ["kv_commit"]
