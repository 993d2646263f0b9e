"""RMS norm and linear layer in one: what a draft head does with the target's hidden states.

    folded_OF = fold_norm(weight_OF, norm_F)                       once, when weights are loaded
    y_NO = norm_linear(x_NF, folded_OF, eps, num_segments)

y = sum over segments s of rsqrt(mean(x_s^2) + eps) * x_s @ folded_s^T. With one segment that is a
norm of all F features; with three each tap of the target has a norm of its own (EAGLE-3.1's
fc_norm) and norm_F holds their weights side by side. `eps` None leaves the norm out.

x_NF, folded_OF: float32, bfloat16 or float16, both the same. y_NO: float32, accumulated in float32.
Folding rounds weight times norm to the weight's type once; the features are never rounded.
"""

from cast_kernels.norm_linear.reference import fold_norm, norm_linear

__all__ = ["fold_norm", "norm_linear"]
