"""Walks all draft trees of a batch along the target's own choices.

    path_BD, num_accepted_B, bonus_B = tree_accept(
        chosen_N, token_N, parent_N, cu_rows_B1, max_rows, max_depth)

chosen_N: int64, what the target chooses behind each row. token_N: int64, the draft token of each
row; anything at root rows. parent_N: int32, rows within the sequence: row 0 is the root and has
parent -1, the parent of any other row comes before it. cu_rows_B1: int32 [B + 1], where each
sequence's rows begin. max_rows, max_depth: of any sequence; D = max_depth.

path_BD: int32, accepted rows within the sequence in order, then -1. num_accepted_B: int32.
bonus_B: int64, the choice behind the last accepted row. Of equal siblings the first is accepted. A
sequence without rows accepts nothing and has the bonus -1. Only reads its arguments.
"""

from cast_kernels.tree_accept.reference import tree_accept

__all__ = ["tree_accept"]
