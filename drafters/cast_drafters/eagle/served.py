"""A head as it is served: packed weights, and its own keys and values in a paged cache.

Shape suffixes: N rows of all sequences side by side, M rows written, S slots, H the head's width,
E the target's, K key heads, D head size, V the draft vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cast_drafters.base import TargetParts
from cast_drafters.eagle.config import HeadConfig
from cast_drafters.eagle.entry import Entry, make_entry
from cast_kernels.linear import NarrowLinear, PackedLinear, WideLinear, widens_halves
from cast_kernels.tree_attention import SequenceRows

_ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}
)
NUM_SCRATCH: Final = 1024  # slots beside the target's, unless told otherwise
_FIRST_POSITIONS: Final = 4096  # whatever context a config claims: the table grows on demand

_Linear: TypeAlias = NarrowLinear | PackedLinear | WideLinear


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Rows of one pass. `slots_N` take their keys and values; `positions_N` turn them (RoPE)."""

    tokens_N: NDArray[np.int64]
    positions_N: NDArray[np.int64]
    slots_N: NDArray[np.int64]
    sequences: Sequence[SequenceRows]


@dataclass(frozen=True, slots=True)
class HeadInputs:
    """Rows of one pass on the device; `plan` is the backend's. Slots of padding rows are -1."""

    tokens_N: Tensor
    positions_N: Tensor
    slots_N: Tensor
    plan: Any


@dataclass(frozen=True, slots=True)
class LevelInputs:
    """A pass, from the slots in which its rows' states before them are to those that the states
    behind `wanted_R`, the rows whose followers are wanted, are kept in; -1 for nowhere. No
    `wanted_R`: all rows are."""

    rows: HeadInputs
    before_N: Tensor
    wanted_R: Tensor | None
    keep_R: Tensor


class ServedHead:
    """EAGLE-3 (Li et al. 2025). Of each slot it keeps one hidden state [H]: the target's, fused.

    Slots are the target's, and `num_scratch` more for rows that only exist while a tree grows: they
    keep the head's own states. So does the slot of a sequence's last token, until the target has
    computed it.
    """

    def __init__(
        self,
        config: HeadConfig,
        tensors: Mapping[str, Tensor],
        target: TargetParts,
        num_scratch: int,
    ) -> None:
        self.config = config
        self.layer_ids = config.layer_ids
        self.draft_token_ids = tensors["draft_token_ids"].numpy()
        self.num_slots, self.num_scratch = target.num_slots, num_scratch
        self._target, self.backend, self.device = target, target.backend, target.device
        dtype, device = target.dtype, target.device
        weight = {name: tensor.to(device) for name, tensor in tensors.items()}
        is_wide = all(widens_halves(w.to(dtype)) for w in weight.values() if w.dim() == 2)
        self._dtype = torch.float32 if is_wide else dtype  # between products
        # Where a level reads most, a rounded head guesses as well, and levels are what drafts cost.
        linear, large = (WideLinear, NarrowLinear) if is_wide else (PackedLinear, PackedLinear)

        def join(make: type[_Linear], *names: str) -> _Linear:
            parts = torch.cat([weight[f"{name}.weight"] for name in names]).to(dtype)
            biases = [weight[f"{name}.bias"] for name in names if f"{name}.bias" in weight]
            return make(parts, torch.cat(biases).to(dtype) if biases else None)

        attention = "layer.self_attn"
        self._qkv = join(linear, *(f"{attention}.{part}_proj" for part in "qkv"))
        self._o = join(linear, f"{attention}.o_proj")
        self._gate_up = join(large, "layer.mlp.gate_proj", "layer.mlp.up_proj")
        self._down = join(linear, "layer.mlp.down_proj")
        self._entry = self._make_entry(weight)
        self._lm_head = self._make_lm_head(weight, NarrowLinear if is_wide else WideLinear)
        self._norms = {name: w.float() for name, w in weight.items() if w.dim() == 1}
        self._activation = _ACTIVATIONS[config.hidden_act]
        self._embedding_VE = weight.get("embed_tokens.weight", target.embedding_VE)
        num_positions = min(config.max_position_embeddings, _FIRST_POSITIONS)
        self._rotation_P2D = _rotation(config, num_positions).to(device)
        shape = (target.num_slots + num_scratch, 2, config.num_key_heads, config.head_dim)
        self._kv_cache_S2KD = torch.empty(shape, dtype=dtype, device=device)
        # One more than there are slots: its last row is what index -1 stands for.
        num_states = target.num_slots + num_scratch + 1
        self._state_SH = torch.empty((num_states, config.hidden_size), device=device)

    def fuse(self, slots_M: Tensor, hidden: Sequence[Tensor]) -> None:
        """Takes in hidden states of the target, one [M, E] for each layer id."""
        self._state_SH[slots_M] = self._entry(hidden)

    def move(self, source_M: Tensor, target_M: Tensor) -> None:
        self._state_SH[target_M] = self._state_SH[source_M]

    def keep(self, slots_N: Tensor, hidden_NH: Tensor) -> None:
        """As the states of these slots, as they are."""
        self._state_SH[slots_N] = hidden_NH

    def fused(self, slots_N: NDArray[np.int64]) -> Tensor:
        """[N, H], float32."""
        return self._state_SH[self.to_device(slots_N)]

    def level(self, inputs: LevelInputs) -> Tensor:
        """Logits of what follows the wanted rows, float32 [R, V].

        Takes no decision that depends on what tensors hold, and asks nothing back: a captured graph
        can replay it.
        """
        out_NH = self.layer(inputs.rows, self._state_SH[inputs.before_N])
        out_RH = out_NH if inputs.wanted_R is None else out_NH[inputs.wanted_R]
        if not len(out_RH):
            return self.no_logits()
        self.keep(inputs.keep_R, self.next(out_RH))
        return self.logits(out_RH)

    def no_logits(self) -> Tensor:
        """Of no rows, [0, V]."""
        return torch.empty((0, len(self.draft_token_ids)), device=self.device)

    def remember(self, rows: HeadRows, before_N: NDArray[np.int64]) -> None:
        """Keeps what later rows see of these, their keys and values. `rows.sequences` is not looked
        at: a head of one layer makes these of each row alone."""
        self.reserve(int(rows.positions_N.max()) + 1)
        embedded_NH = F.embedding(self.to_device(rows.tokens_N), self._embedding_VE)
        x_NW, _ = self._read(embedded_NH, self._state_SH[self.to_device(before_N)])
        self._project(x_NW, self.to_device(rows.positions_N), self.to_device(rows.slots_N))

    @property
    def remembering_share(self) -> float:
        """Of the products that `level` has for a row, how much of it `remember` has."""
        parts = [self._o, self._gate_up, self._down]
        whole = sum(part.in_features * part.out_features for part in (self._qkv, *parts))
        return self._qkv.in_features * self._qkv.out_features / whole

    def forward(self, rows: HeadRows, hidden_NH: Tensor) -> Tensor:
        """The next hidden states [N, H], float32, before the final norm."""
        return self.layer(self.inputs(rows), hidden_NH)

    def inputs(self, rows: HeadRows) -> HeadInputs:
        target = self._target
        self.reserve(int(rows.positions_N.max()) + 1)
        return HeadInputs(
            self.to_device(rows.tokens_N),
            self.to_device(rows.positions_N),
            self.to_device(rows.slots_N),
            self.backend.plan(rows.sequences, target.device),
        )

    def layer(self, rows: HeadInputs, hidden_NH: Tensor) -> Tensor:
        """As `forward`, of rows on the device."""
        config = self.config
        embedded_NH = F.embedding(rows.tokens_N, self._embedding_VE)
        x_NW, residual_NH = self._read(embedded_NH, hidden_NH)
        q_NHD = self._project(x_NW, rows.positions_N, rows.slots_N)
        attended_NHD = self.backend.tree_attention(
            q_NHD.to(self._target.dtype),
            self._kv_cache_S2KD,
            rows.plan,
            scale=config.head_dim**-0.5,
        )
        residual_NH = residual_NH + self._o(attended_NHD.flatten(1).to(self._dtype))
        x_NH = self._norm(residual_NH, "layer.post_attention_layernorm.weight")
        gate_NF, up_NF = self._gate_up(x_NH.to(self._dtype)).chunk(2, -1)
        out_NH: Tensor = residual_NH + self._down(self._activation(gate_NF) * up_NF)
        return out_NH

    def _project(self, x_NW: Tensor, positions_N: Tensor, slots_N: Tensor) -> Tensor:
        """Keeps keys and values; the queries, turned, [N, heads, D]."""
        config = self.config
        qkv_NHD = self._qkv(x_NW.to(self._dtype)).unflatten(-1, (-1, config.head_dim))
        rotated = config.num_heads + config.num_key_heads
        qkv_NHD[:, :rotated] = self._rotate(qkv_NHD[:, :rotated], positions_N)
        kv_N2KD = qkv_NHD[:, config.num_heads :].unflatten(1, (2, config.num_key_heads))
        self.backend.kv_write(self._kv_cache_S2KD, kv_N2KD, slots_N)
        q_NHD: Tensor = qkv_NHD[:, : config.num_heads]
        return q_NHD

    def next(self, out_NH: Tensor) -> Tensor:
        """What stands in for the target's hidden state after `forward` gave `out_NH`."""
        return self._norm(out_NH, "norm.weight") if self.config.norm_output else out_NH

    def log_probs(self, out_NH: Tensor) -> Tensor:
        """Over the draft vocabulary, float32 [N, V]."""
        return self.logits(out_NH).log_softmax(-1)

    def logits(self, out_NH: Tensor) -> Tensor:
        """Over the draft vocabulary, float32 [N, V]."""
        normed_NH = self._norm(out_NH, "norm.weight").to(self._dtype)
        logits: Tensor = self._lm_head(normed_NH)
        return logits

    def _make_entry(self, weight: Mapping[str, Tensor]) -> Entry:
        return make_entry(self.config, weight, self._target.dtype, self.backend)

    def _make_lm_head(self, weight: Mapping[str, Tensor], make: type[_Linear]) -> nn.Module:
        return make(weight["lm_head.weight"].to(self._target.dtype))

    def _read(self, embedded_NH: Tensor, hidden_NH: Tensor) -> tuple[Tensor, Tensor]:
        """What attention reads, [N, W], and what its result is added to, [N, H]."""
        normed_NH = self._norm(hidden_NH, "layer.hidden_norm.weight")
        x_NW = torch.cat([self._norm(embedded_NH, "layer.input_layernorm.weight"), normed_NH], -1)
        return x_NW, normed_NH if self.config.norm_before_residual else hidden_NH

    def _norm(self, x: Tensor, name: str) -> Tensor:
        x = x.float()
        weight = self._norms[name]
        return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)

    def reserve(self, num_positions: int) -> None:
        """Positions below that may come."""
        if num_positions > len(self._rotation_P2D):
            self._rotation_P2D = _rotation(self.config, 2 * num_positions).to(self._target.device)

    def _rotate(self, x_NHD: Tensor, positions_N: Tensor) -> Tensor:
        rotation_N2D = self._rotation_P2D[positions_N]
        cos_N1D, sin_N1D = rotation_N2D.unsqueeze(2).unbind(1)
        x = x_NHD.float()
        low, high = x.chunk(2, -1)
        return x * cos_N1D + torch.cat([-high, low], -1) * sin_N1D

    def to_device(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._target.device)


def _rotation(config: HeadConfig, num_positions: int) -> Tensor:
    """Cosines and sines of RoPE (Su et al. 2021), [positions, 2, D]."""
    powers_D = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    frequencies_D = _scaled(config.rope_theta**-powers_D, config.rope_scaling)
    positions_P = torch.arange(num_positions, dtype=torch.float64)
    angle_PD = torch.outer(positions_P, frequencies_D).repeat(1, 2)
    return torch.stack([angle_PD.cos(), angle_PD.sin()], 1).float()


def _scaled(frequencies_D: Tensor, scaling: Mapping[str, Any] | None) -> Tensor:
    """Stretched for long contexts. Raises `ValueError` for what cannot be done."""
    if scaling is None:
        return frequencies_D
    if scaling["type"] not in ("linear", "llama3"):
        raise ValueError(
            f"The head's rope_scaling is of type {scaling['type']!r}; only linear and llama3 are "
            "supported."
        )
    factor = _positive(scaling, "factor")
    if scaling["type"] == "linear":
        return frequencies_D / factor
    # Llama 3.1: slow waves are stretched, fast ones kept, those between blended.
    low, high = _positive(scaling, "low_freq_factor"), _positive(scaling, "high_freq_factor")
    if low >= high:
        raise ValueError(
            f"The head's rope_scaling has a low_freq_factor of {low:g}, which must be less than "
            f"its high_freq_factor of {high:g}."
        )
    turns_D = _positive(scaling, "original_max_position_embeddings") * frequencies_D / math.tau
    kept_D = ((turns_D - low) / (high - low)).clamp(0, 1)
    return frequencies_D * (kept_D + (1 - kept_D) / factor)


def _positive(scaling: Mapping[str, Any], name: str) -> float:
    value = scaling.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ValueError(
        f"The head's rope_scaling of type {scaling['type']!r} needs a positive number as "
        f"{name}, got {value!r}."
    )
