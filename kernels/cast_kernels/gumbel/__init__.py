"""Position-keyed Gumbel noise: the token chosen at an output position depends on nothing else.

`argmax_v [x(v) + g(seed, position, v)]` with standard Gumbel noise g is a sample of softmax(x)
(Gumbel 1954). As g is a pure function of (seed, position, token), it does not matter in which step,
batch or draft tree a position is evaluated: the choice is the same (cf. Daliri et al. 2024,
drafter-invariant speculative decoding by Gumbel coupling).

    token_R = gumbel_argmax(scores_RV, seed_R, position_R)
    token_R, log_prob_R = gumbel_choice(scores_RV, seed_R, position_R, is_greedy_R)

The second is what `kernel.py` does, and a `Backend`.
"""

from cast_kernels.gumbel.reference import (
    gumbel_argmax,
    gumbel_choice,
    gumbel_noise,
    highest,
)

__all__ = ["gumbel_argmax", "gumbel_choice", "gumbel_noise", "highest"]
