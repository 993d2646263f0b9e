"""Writes the keys and values of a step into their slots of one layer's paged cache.

    kv_write(kv_cache_S2KD, k_NKD, v_NKD, slot_N)

k_NKD: already rotated to its position. slot_N: int64, each at most once; rows with slot -1 are
written nowhere. kv_scale_2K: float32, what a stored key (0) or value (1) of each head is to be
multiplied with when it is read; for caches in float8, whose largest number takes the place of what
is beyond it. Writes the cache in place, reads the rest.

A `Backend` takes keys and values in one tensor, `kv_N2KD`: on a CPU, slicing it costs more than
writing it.
"""

from cast_kernels.kv_write.reference import kv_write

__all__ = ["kv_write"]
