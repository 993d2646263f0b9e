"""Surgery on a loaded model: fewer, larger operations, the same function.

Nothing here knows model names. A decoder layer is replaced only if its parts are exactly those of
the Llama family, and the caller compares the model's logits before and after; every other layer
keeps transformers' own code with its linear layers repacked.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from cast_kernels.linear import PackedLinear, WideLinear, widens_halves
from cast_server.engine.forward_batch import ForwardBatch

_LAYER_PARTS: Final = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION_PARTS: Final = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS: Final = {"q_norm", "k_norm"}
_MLP_PARTS: Final = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class RMSNorm:
    """Zhang and Sennrich 2019, in fewer and faster operations; the result has type `dtype`.

    Takes over the weight and epsilon of transformers' module `norm`.
    """

    def __init__(self, norm: Any, dtype: torch.dtype) -> None:
        self._weight_E = norm.weight.detach().to(dtype)
        self._epsilon = self._weight_E.new_full((1,), norm.variance_epsilon, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.addcmul(self._epsilon, length, length, value=1 / x.shape[-1]).rsqrt_()
        normed: Tensor = (wide * scale).to(self._weight_E.dtype) * self._weight_E
        return normed


class FusedDecoderLayer(nn.Module):
    """A pre-norm decoder layer with grouped-query attention and a gated MLP.

    One matrix product each for q, k and v and for gate and up; keys and values go into the cache in
    one copy. Between products everything has the type of the weights, or float32 where that takes
    no longer. Weights are taken over from `layer`, which must not be used afterwards.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.layer_idx: int = attention.layer_idx
        self.head_dim: int = attention.head_dim
        self.num_key_heads: int = attention.k_proj.out_features // self.head_dim
        self.num_heads: int = attention.q_proj.out_features // self.head_dim
        self.scale: float = attention.scaling
        self.window: int | None = getattr(
            attention, "sliding_window", getattr(attention.config, "sliding_window", None)
        )
        is_wide = all(widens_halves(m.weight) for m in layer.modules() if isinstance(m, nn.Linear))
        make = WideLinear if is_wide else PackedLinear
        dtype = torch.float32 if is_wide else attention.q_proj.weight.dtype
        self.input_layernorm = RMSNorm(layer.input_layernorm, dtype)
        self.post_attention_layernorm = RMSNorm(layer.post_attention_layernorm, dtype)
        has_head_norms = hasattr(attention, "q_norm")
        self.q_norm = RMSNorm(attention.q_norm, dtype) if has_head_norms else None
        self.k_norm = RMSNorm(attention.k_norm, dtype) if has_head_norms else None
        self.qkv_proj = _join(make, attention.q_proj, attention.k_proj, attention.v_proj)
        self.o_proj = _join(make, attention.o_proj)
        self.gate_up_proj = _join(make, mlp.gate_proj, mlp.up_proj)
        self.down_proj = _join(make, mlp.down_proj)
        self.activation = mlp.act_fn
        half_D = attention.q_proj.weight.new_ones(self.head_dim // 2, dtype=dtype)
        self._rotation_sign_D = torch.cat([-half_D, half_D])

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        forward_batch: ForwardBatch,
        **_: Any,
    ) -> Tensor:
        """hidden_states: [1, N, E]; returns float32, as sums over many layers lose in bfloat16."""
        hidden_NE = hidden_states[0].float()
        normed_NE = self.input_layernorm(hidden_NE)
        hidden_NE = hidden_NE + self._attend(normed_NE, position_embeddings, forward_batch)
        normed_NE = self.post_attention_layernorm(hidden_NE)
        gate_NF, up_NF = self.gate_up_proj(normed_NE).chunk(2, dim=-1)
        hidden_NE = hidden_NE + self.down_proj(self.activation(gate_NF) * up_NF)
        return hidden_NE.unsqueeze(0)

    def _attend(
        self, x_NE: Tensor, position_embeddings: tuple[Tensor, Tensor], batch: ForwardBatch
    ) -> Tensor:
        num_rows = len(x_NE)
        rotated = self.num_heads + self.num_key_heads
        qkv_NHD = self.qkv_proj(x_NE).view(num_rows, -1, self.head_dim)
        qk_NHD = self._norm_heads(qkv_NHD[:, :rotated])
        cos_N1D, sin_N1D = (part_1ND.transpose(0, 1) for part_1ND in position_embeddings)
        turned_NHD = qk_NHD.roll(self.head_dim // 2, -1)
        signed_N1D = sin_N1D * self._rotation_sign_D
        torch.addcmul(qk_NHD * cos_N1D, turned_NHD, signed_N1D, out=qkv_NHD[:, :rotated])
        num_written = len(batch.slots_M)
        kv_M2KD = qkv_NHD[:num_written, self.num_heads :].view(
            num_written, 2, self.num_key_heads, self.head_dim
        )
        cache_S2KD = batch.kv_caches[self.layer_idx]
        batch.backend.kv_write(cache_S2KD, kv_M2KD, batch.slots_M)
        out_NHD = batch.backend.tree_attention(
            qkv_NHD[:, : self.num_heads].to(cache_S2KD.dtype),
            cache_S2KD,
            batch.plan,
            scale=self.scale,
            window=self.window,
        )
        out: Tensor = self.o_proj(out_NHD.reshape(num_rows, -1))
        return out

    def _norm_heads(self, qk_NHD: Tensor) -> Tensor:
        if self.q_norm is None or self.k_norm is None:
            return qk_NHD
        q_NHD, k_NKD = qk_NHD.split([self.num_heads, self.num_key_heads], dim=1)
        return torch.cat([self.q_norm(q_NHD), self.k_norm(k_NKD)], dim=1)


def fuse_layers(model: nn.Module) -> int:
    """Replaces every decoder layer of the known shape, in place. Returns how many."""
    fused = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if is_fusable(child):
                setattr(parent, name, FusedDecoderLayer(child))
                fused += 1
    return fused


def widen_head(model: Any) -> None:
    """Makes the logits float32, in place: in bfloat16 the likeliest tokens often tie."""
    head = model.get_output_embeddings()
    if type(head) is nn.Linear:
        model.set_output_embeddings(WideLinear(head.weight, head.bias))


def pack_linears(model: nn.Module) -> None:
    """Repacks every `nn.Linear`, in place; tied weights keep their unpacked copy elsewhere."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child.weight, child.bias))


def is_fusable(layer: Any) -> bool:
    """Whether `fuse_layers` would replace it."""
    parts: dict[str, Any] = dict(layer.named_children())
    if set(parts) != _LAYER_PARTS or not hasattr(parts["self_attn"], "layer_idx"):
        return False
    attention = {name for name, _ in parts["self_attn"].named_children()}
    mlp = {name for name, _ in parts["mlp"].named_children()}
    norms = [parts["input_layernorm"], parts["post_attention_layernorm"]]
    norms += [getattr(parts["self_attn"], name) for name in attention & _HEAD_NORMS]
    return (
        attention in (_ATTENTION_PARTS, _ATTENTION_PARTS | _HEAD_NORMS)
        and mlp == _MLP_PARTS
        and all(hasattr(norm, "variance_epsilon") for norm in norms)
        and all(type(m) is nn.Linear for n, m in layer.named_modules() if n.endswith("_proj"))
    )


def _join(make: type[PackedLinear | WideLinear], *linears: nn.Linear) -> PackedLinear | WideLinear:
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    assert len(biases) in (0, len(linears))
    return make(weight, torch.cat(biases) if biases else None)
