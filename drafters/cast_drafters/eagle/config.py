"""What a draft head looks like, read from the config.json of every published dialect.

Three dialects: EAGLE-1/2 and EAGLE-3 as their authors and SpecForge write them (flat, like a Llama
model's), and vLLM's `speculators` (the layer's fields in `transformer_layer_config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

# What `architectures` calls heads of one Llama layer.
_VERSIONS: Final[Mapping[str, int]] = MappingProxyType(
    {"LlamaForCausalLMEagle": 1, "EagleLlamaForCausalLM": 1}
    | {"LlamaForCausalLMEagle3": 3, "Eagle3LlamaForCausalLM": 3}
    | {"Eagle3Speculator": 3, "Eagle3DraftModel": 3}
)
# EAGLE's authors name the target's architecture instead; then the fields tell the version.
_TARGETS: Final = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM")
_ACTIVATIONS: Final = ("silu", "gelu", "relu")
_SUPPORTED: Final = "EAGLE-1, EAGLE-2 and EAGLE-3 heads of one Llama layer are supported"
_LARGEST: Final = 2**53  # numbers above are nonsense, and floats lose count
_TAPS: Final = "eagle_aux_hidden_state_layer_ids"

_T = TypeVar("_T")


class HeadFormatError(ValueError):
    """A draft head cannot be used; one sentence on what was found, expected, and can be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig:
    """Shapes and switches of a head.

    `version` is 1 for EAGLE-1 and -2, 3 for EAGLE-3. `vocab_size` is the target's;
    `draft_vocab_size` equals it for version 1. `layer_ids` are the target's layers at whose INPUT
    the residual stream is tapped, `hidden_states[i]` of transformers; empty for version 1.
    `norm_before_residual`: the layer adds to the normed hidden state instead of the plain one.
    `norm_before_fc` norms the three taps side by side, `fc_norm` each of them. `norm_output`: the
    normed state is what stands in for the target's at the next step.
    """

    version: int
    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    num_heads: int
    num_key_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: dict[str, Any] | None = None
    max_position_embeddings: int
    hidden_act: str = "silu"
    layer_ids: tuple[int, ...]
    has_fc_bias: bool = False
    has_qkv_bias: bool = False
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False


@dataclass(frozen=True, slots=True)
class TargetShape:
    """What a head must fit."""

    hidden_size: int
    vocab_size: int
    num_layers: int


def default_layer_ids(num_layers: int) -> tuple[int, int, int]:
    """The layers that EAGLE-3 taps where a head does not say."""
    return 2, num_layers // 2, num_layers - 3


def parse_config(document: dict[str, Any], target: TargetShape) -> HeadConfig:
    """Reads a config.json. Raises `HeadFormatError` for what is not supported or does not fit."""
    version = _version(document)
    layer = document
    if "transformer_layer_config" in document:
        layer = _get(document, "transformer_layer_config", dict, {})
    config = _head(version, document, layer, target)
    _check_target(config, target)
    _check_numbers(config)
    return config


def tensor_shapes(config: HeadConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name → shape of every tensor that such a head has, but `draft_token_ids`.

    `embed_tokens.weight` and `layer.self_attn.o_proj.bias` are the two it may lack.
    """
    size, inner, target = config.hidden_size, config.intermediate_size, config.target_hidden_size
    heads, keys = config.num_heads * config.head_dim, config.num_key_heads * config.head_dim
    is_3 = config.version == 3
    wide = 2 * size if is_3 else size  # EAGLE-3 attends to embedding and hidden state side by side
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (size, 3 * target if is_3 else 2 * size),
        "layer.self_attn.q_proj.weight": (heads, wide),
        "layer.self_attn.k_proj.weight": (keys, wide),
        "layer.self_attn.v_proj.weight": (keys, wide),
        "layer.self_attn.o_proj.weight": (size, heads),
        "layer.mlp.gate_proj.weight": (inner, size),
        "layer.mlp.up_proj.weight": (inner, size),
        "layer.mlp.down_proj.weight": (size, inner),
        "layer.post_attention_layernorm.weight": (size,),
        "embed_tokens.weight": (config.vocab_size, size),
    }
    if is_3:
        norms = ("layer.hidden_norm", "layer.input_layernorm", "norm")
        shapes |= {f"{name}.weight": (size,) for name in norms}
        shapes["lm_head.weight"] = (config.draft_vocab_size, size)
    if config.has_fc_bias:
        shapes["fc.bias"] = (size,)
    if config.has_qkv_bias:
        widths = {"q": heads, "k": keys, "v": keys, "o": size}
        shapes |= {f"layer.self_attn.{p}_proj.bias": (width,) for p, width in widths.items()}
    if config.fc_norm:
        shapes |= {f"fc_norm.{i}.weight": (target,) for i in range(3)}
    if config.norm_before_fc:
        shapes["input_norm.weight"] = (3 * target,)
    return shapes


def _version(document: dict[str, Any]) -> int:
    kind = document.get("speculators_model_type")
    if kind is not None:  # `architectures` is whatever class wrote the file
        if kind != "eagle3":
            raise HeadFormatError(f"speculators_model_type is {kind!r}, but only {_SUPPORTED}.")
        return 3
    if "medusa_num_heads" in document:
        raise HeadFormatError(f"medusa_num_heads tells of Medusa heads, but only {_SUPPORTED}.")
    names = document.get("architectures") or _TARGETS[:1]
    name = names[0] if isinstance(names, list | tuple) else names
    version = _VERSIONS.get(name) if isinstance(name, str) else None
    if version is None and name not in _TARGETS:
        raise HeadFormatError(
            f"architectures names {name!r}, but only {_SUPPORTED}; if this is one, name it "
            "'LlamaForCausalLMEagle' or 'LlamaForCausalLMEagle3'."
        )
    return version or (1 if document.get("draft_vocab_size") is None else 3)


def _head(
    version: int, document: dict[str, Any], layer: dict[str, Any], target: TargetShape
) -> HeadConfig:
    """Fields of the head are in `document`, those of its Llama layer in `layer`."""
    num_layers = _get(layer, "num_hidden_layers", int, 1)
    if num_layers != 1:
        raise HeadFormatError(
            f"num_hidden_layers is {num_layers}, but only {_SUPPORTED}; whole language models "
            "and P-EAGLE cannot draft."
        )
    if document.get("quantization_config"):
        raise HeadFormatError(
            "quantization_config tells of quantised weights, but heads are read in float16, "
            "bfloat16 or float32; name the unquantised head."
        )
    is_3 = version == 3
    size, num_heads = _get(layer, "hidden_size", int), _get(layer, "num_attention_heads", int)
    vocab_size = _get(layer, "vocab_size", int, target.vocab_size)
    theta, scaling = _rope(layer)

    def flag(name: str) -> bool:
        return is_3 and _get(document, name, bool, False)

    return HeadConfig(
        version=version,
        hidden_size=size,
        target_hidden_size=_get(document, "target_hidden_size", int, size) if is_3 else size,
        intermediate_size=_get(layer, "intermediate_size", int),
        num_heads=num_heads,
        num_key_heads=_get(layer, "num_key_value_heads", int, num_heads),
        head_dim=_get(layer, "head_dim", int, size // num_heads),
        vocab_size=vocab_size,
        draft_vocab_size=_get(document, "draft_vocab_size", int, vocab_size),
        rms_norm_eps=_get(layer, "rms_norm_eps", float, 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        max_position_embeddings=_get(layer, "max_position_embeddings", int, 2048),
        hidden_act=_get(layer, "hidden_act", str, "silu"),
        layer_ids=_layer_ids(document, target.num_layers) if is_3 else (),
        has_fc_bias=_get(document, "bias", bool, not is_3),
        has_qkv_bias=_get(layer, "qkv_bias", bool, _get(layer, "attention_bias", bool, False)),
        norm_before_residual=flag("norm_before_residual"),
        norm_before_fc=flag("norm_before_fc"),
        fc_norm=flag("fc_norm"),
        norm_output=flag("norm_output"),
    )


def _rope(layer: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The base and the scaling, whose kind is then under "type" and never "default".

    EAGLE-3 heads without a base were trained with 10000, whatever the target's is.
    """
    scaling = _get(layer, "rope_scaling", dict, {}) | _get(layer, "rope_parameters", dict, {})
    theta = _get(layer, "rope_theta", float, _get(scaling, "rope_theta", float, 10000.0))
    rest = {k: v for k, v in scaling.items() if k not in ("type", "rope_type", "rope_theta")}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    return theta, None if kind == "default" else {"type": kind, **rest}


def _layer_ids(document: dict[str, Any], num_layers: int) -> tuple[int, ...]:
    """The tapped layers as `HeadConfig.layer_ids` counts them.

    Files disagree: vLLM and speculators write the layer whose input is tapped; SpecForge, and
    SGLang, which adds 1 to what `eagle_config` says, the one before it. Nothing tells which, and
    conversions carry one counting into the field of the other. So the default taps are recognised
    in either counting and field; where both fields are there, 1 apart, the larger are meant; all
    else is taken as the layers whose input is tapped.
    """
    default = default_layer_ids(num_layers)
    outer = _taps(document)
    inner = _taps(_get(document, "eagle_config", dict, {}))
    ids = outer or inner or default
    is_told = bool(outer) and inner == tuple(i - 1 for i in outer)
    if not is_told and ids == tuple(i - 1 for i in default):
        return default
    return ids


def _taps(document: dict[str, Any]) -> tuple[int, ...]:
    ids = _get(document, _TAPS, list, [])
    if not all(type(i) is int for i in ids):
        raise HeadFormatError(f"{_TAPS} must be numbers of layers, got {ids}.")
    return tuple(ids)


def _check_target(config: HeadConfig, target: TargetShape) -> None:
    size = config.target_hidden_size if config.version == 3 else config.hidden_size
    name = "target_hidden_size" if size != config.hidden_size else "hidden_size"
    if size != target.hidden_size:
        raise HeadFormatError(
            f"{name} is {size}, but the target's hidden states have {target.hidden_size}; name a "
            "head that was trained for this target."
        )
    if config.vocab_size != target.vocab_size:
        raise HeadFormatError(
            f"vocab_size is {config.vocab_size}, but the target's is {target.vocab_size}; name a "
            "head that was trained for this target."
        )
    if config.version == 1:
        return
    ids, last = config.layer_ids, target.num_layers - 1
    if len(ids) != 3:
        raise HeadFormatError(f"{_TAPS} must name three layers, got {len(ids)}: {list(ids)}.")
    if not all(0 <= i <= last for i in ids):
        raise HeadFormatError(
            f"{_TAPS} are {list(ids)}, but the target's layers are 0 to {last}; name a head that "
            "was trained for this target."
        )


def _check_numbers(config: HeadConfig) -> None:
    if config.num_heads % config.num_key_heads:
        raise HeadFormatError(
            f"num_attention_heads is {config.num_heads}, which num_key_value_heads "
            f"({config.num_key_heads}) must divide."
        )
    if config.head_dim < 1 or config.head_dim % 2:
        raise HeadFormatError(f"head_dim must be even, got {config.head_dim}.")
    is_wrong = config.draft_vocab_size != config.vocab_size
    if config.draft_vocab_size > config.vocab_size or (config.version == 1 and is_wrong):
        allowed = "at most" if config.version == 3 else "absent from an EAGLE-1 head or"
        raise HeadFormatError(
            f"draft_vocab_size is {config.draft_vocab_size}, but must be {allowed} the vocab_size "
            f"of {config.vocab_size}."
        )
    if config.hidden_act not in _ACTIVATIONS:
        raise HeadFormatError(
            f"hidden_act is {config.hidden_act!r}, but only {', '.join(_ACTIVATIONS)} can be run."
        )


def _get(document: dict[str, Any], name: str, kind: type[_T], default: _T | None = None) -> _T:
    """A field of that type; null is as good as absent. Whole numbers and floats are positive."""
    value = document.get(name)
    if value is None:
        if default is None:
            raise HeadFormatError(f"{name} is missing; copy the head's config.json again.")
        return default
    is_number = kind in (int, float)
    is_right_type = type(value) is kind or (kind is float and type(value) is int)
    if not is_right_type or (is_number and not 0 < value < _LARGEST):
        what = "a positive number" if is_number else f"of type {kind.__name__}"
        raise HeadFormatError(f"{name} must be {what}, got {value!r}.")
    return cast(_T, float(value) if kind is float else value)
