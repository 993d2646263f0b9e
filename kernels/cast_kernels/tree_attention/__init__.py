"""Attention of ragged draft trees over a paged KV cache.

    plan = AttentionPlan(rows, device)       once a step, on the host
    out_NHD = tree_attention(q_NHD, kv_cache_S2KD, plan, scale=…)   once a layer, in the type of q

kv_cache_S2KD: one layer's cache; slot s holds key [s, 0] and value [s, 1] of one token.
A sequence with context length c and R rows in this step has its keys in c + R slots, in order of
position for the first c, in order of rows for the last R; the rows' own keys and values are written
before the call. Row r sees every one of the c context tokens and those rows whose bit is set in its
mask; a window w further restricts both to positions above its own minus w. Row r of depth d is at
position c + d.

q may have more rows than the plan; these are idle and their output is the query itself.
Only reads its arguments. Slots behind a sequence's c + R may hold anything, NaN included.
"""

from cast_kernels.tree_attention.plan import AttentionPlan, SequenceRows
from cast_kernels.tree_attention.sdpa import tree_attention

__all__ = ["AttentionPlan", "SequenceRows", "tree_attention"]
