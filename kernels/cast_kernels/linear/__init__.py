"""Linear layers whose weights are laid out once for the device they run on.

    y = PackedLinear(weight_OE, bias_O)(x)      x [..., E] -> y [..., O], all of one dtype
    y = WideLinear(weight_OE, bias_O)(x)        y is float32: for logits, where rounding makes ties

On a CPU oneDNN reorders bfloat16 and float32 weights into its own blocked layout, which saves the
reordering in every call; elsewhere the weights stay as they are.
"""

from cast_kernels.linear.packed import PackedLinear
from cast_kernels.linear.wide import WideLinear

__all__ = ["PackedLinear", "WideLinear"]
