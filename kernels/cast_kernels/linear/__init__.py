"""Linear layers whose weights are laid out once for the device they run on.

    y = PackedLinear(weight_OE, bias_O)(x)      x [..., E] -> y [..., O]

On a CPU oneDNN reorders bfloat16 and float32 weights into its own blocked layout, which saves the
reordering in every call; elsewhere the weights stay as they are.
"""

from cast_kernels.linear.packed import PackedLinear

__all__ = ["PackedLinear"]
