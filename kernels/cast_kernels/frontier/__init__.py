"""The next level of all draft trees of a batch: the likeliest nodes, whichever sequence has them.

    flat_W, counts_B = frontier(log_probs_BC, log_weights_B, num_rows)

log_probs_BC: float32 natural log-probabilities of candidate nodes, -inf where a node is closed.
log_weights_B: float32 logarithms of what a sequence's nodes are worth, -inf for nothing. A node is
worth log_prob + log_weight, one float32 sum that is the same on every device (a product of weight
and exponential would round differently, and ends at 0 where this still tells nodes apart).
The W = num_rows worthiest are taken, of equal ones the lower sequence's, then the lower node.

flat_W: int64 indices b * C + c, rising (so by sequence, then node), then -1 where fewer than W
nodes are open. counts_B: int32, how many each sequence has. Only reads its arguments.
"""

from cast_kernels.frontier.reference import frontier

__all__ = ["frontier"]
