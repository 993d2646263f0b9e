"""Linear layers whose weights are laid out once for the device they run on.

    y = PackedLinear(weight_OE, bias_O)(x)      x [..., E] -> y [..., O], all of one dtype
    y = WideLinear(weight_OE, bias_O)(x)        y is float32: for logits, where rounding makes ties,
                                                and wherever `widens_halves(weight_OE)`
    y = NarrowLinear(weight_OE, bias_O)(x)      y is float32, weights are int8: for drafts, which
                                                are checked, where `widens_halves(weight_OE)`

On a CPU oneDNN reorders bfloat16 and float32 weights into its own blocked layout, which saves the
reordering in every call; elsewhere the weights stay as they are. On x86 FBGEMM multiplies float32
rows by float16 or int8 weights. `can_widen` and `wide_bytes` tell of shapes what it comes to.
"""

from cast_kernels.linear.narrow import NarrowLinear
from cast_kernels.linear.packed import PackedLinear
from cast_kernels.linear.wide import WideLinear, can_widen, wide_bytes, widens_halves

__all__ = ["NarrowLinear", "PackedLinear", "WideLinear", "can_widen", "wide_bytes", "widens_halves"]
