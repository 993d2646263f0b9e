"""The k likeliest tokens of each row with their log-probabilities, without writing the softmax.

    value_NK, index_NK = log_softmax_topk(logits_NV, k)

logits_NV: float32, bfloat16 or float16; -inf where a token is forbidden, at least one finite logit
a row. 1 <= k <= min(16, V). value_NK: float32 natural log-probabilities over all V tokens, falling.
index_NK: int64; of equal logits the lowest index comes first. Only reads its arguments.

On a CPU `selected.py` serves, for any k: torch's own selection is several times as fast as a stable
sort, and leaves open which of equal logits comes first.
"""

from cast_kernels.log_softmax_topk.reference import log_softmax_topk

__all__ = ["log_softmax_topk"]
