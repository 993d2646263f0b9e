"""Reads draft heads in every published format and writes EAGLE-3 heads that others load too.

In memory tensors have one set of names, whatever the file calls them (see `tensor_shapes`). Files
are not trusted: pickles are read as weights only, and whatever is wrong becomes one sentence.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cast_drafters.eagle.config import (
    HeadConfig,
    HeadFormatError,
    TargetShape,
    parse_config,
    tensor_shapes,
)

__all__ = ["HeadFormatError", "read_head", "write_head"]

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_INDEX, _PICKLE = "model.safetensors.index.json", "pytorch_model.bin"
_SAME_HEAD: Final = f"use weights and {_CONFIG} of the same head"
_SWITCHES: Final = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16)
_WHOLE: Final = (torch.int64, torch.int32, torch.uint8, torch.bool)
_PREFIX: Final = re.compile(r"^(?:(?:model|eagle|draft_model|module)\.)+")
_LAYER: Final = re.compile(r"^(?:midlayer|layers\.0)\.")
# Computed anew, and copies of the target's that training kept beside the head.
_IGNORED: Final = re.compile(r"rotary_emb\.|^verifier_(?:norm|lm_head)\.")


def read_head(directory: Path, target: TargetShape) -> tuple[HeadConfig, dict[str, Tensor]]:
    """Reads config.json and the weights beside it, onto the CPU, in the dtype they are stored in.

    Returns the tensors of `tensor_shapes` and `draft_token_ids`, int64 [draft_vocab_size]: the
    target's id of each draft id. Raises `HeadFormatError` for files that are missing, damaged, not
    supported or do not fit the target.
    """
    if not directory.is_dir():
        raise HeadFormatError(f"There is no directory {directory}; heads are not downloaded.")
    with _in_file(directory / _CONFIG):
        config = parse_config(_read_json(directory / _CONFIG), target)
    path = _find_weights(directory)
    found = _read_weights(path)
    with _in_file(path):
        tensors = _rename(found)
        d2t, t2d = tensors.pop("d2t", None), tensors.pop("t2d", None)
        _check_tensors(config, tensors)
        tensors["draft_token_ids"] = _draft_token_ids(config, d2t, t2d)
    return config, tensors


def write_head(
    directory: Path,
    config: HeadConfig,
    tensors: dict[str, Tensor],
    target_architecture: str = "LlamaForCausalLM",
) -> None:
    """Writes an EAGLE-3 head under the names that EAGLE's authors gave its parts.

    `tensors` are as `read_head` returns them, with rising `draft_token_ids`. Each of the two files
    appears whole or not at all, the weights first. `target_architecture` is for the reader only.
    Raises `HeadFormatError` for tensors that `config` does not describe.
    """
    tensors = {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
    ids = tensors.pop("draft_token_ids", None)
    with _in_file(directory):
        if config.version != 3:
            raise HeadFormatError(f"only EAGLE-3 heads are written, got version {config.version}.")
        _check_tensors(config, tensors)
        vocabulary = _vocabulary(config, ids)
    document = _document(config, tensors, target_architecture)
    named = {_published(name, config): t.contiguous() for name, t in tensors.items()} | vocabulary
    directory.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt"}  # transformers refuses files without it
    _replace(directory / _WEIGHTS, lambda path: save_file(named, path, metadata))
    _replace(directory / _CONFIG, lambda path: path.write_text(json.dumps(document, indent=2)))


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except HeadFormatError as error:
        raise HeadFormatError(f"{path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise HeadFormatError("the file is missing; copy it from where the head was published.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise HeadFormatError(f"the file is damaged ({error}); copy it again.") from error
    return document


def _find_weights(directory: Path) -> Path:
    for name in (_WEIGHTS, _INDEX, _PICKLE):
        if (directory / name).is_file():
            return directory / name
    raise HeadFormatError(f"{directory} holds no weights; copy {_WEIGHTS} or {_PICKLE} there.")


def _read_weights(path: Path) -> dict[str, Tensor]:
    paths = [path]
    if path.name == _INDEX:
        with _in_file(path):
            paths = [path.with_name(name) for name in _shards(_read_json(path))]
    tensors: dict[str, Tensor] = {}
    for one in paths:
        with _in_file(one):
            tensors |= _read_tensors(one)
    return tensors


def _shards(index: dict[str, Any]) -> list[str]:
    shards = index.get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else {""}
    if not all(name == Path(name).name != "" for name in names):
        raise HeadFormatError("weight_map must map tensors to files beside it; copy it again.")
    return sorted(names)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise HeadFormatError(f"{_INDEX} names the file, but it is missing; copy it too.")
    loaded: Any
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:120]
        text = f"the file is damaged ({reason}); copy it again (in a git checkout: git lfs pull)."
        raise HeadFormatError(text) from error
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise HeadFormatError("expected names and tensors; save the head's state_dict() alone.")
    return loaded


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _rename(found: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        short = _PREFIX.sub("", str(name))
        if _IGNORED.search(short):
            continue
        if re.match(r"layers\.[1-9]", short):
            raise HeadFormatError(f"{name} is of a second layer, but only one is supported.")
        short = _LAYER.sub("layer.", short)
        if short in tensors:
            raise HeadFormatError(f"{name} is there under two names; remove one of them.")
        tensors[short] = tensor
    return tensors


def _published(name: str, config: HeadConfig) -> str:
    """The name that EAGLE's authors gave to a tensor."""
    prefix = "midlayer." if config.version == 3 else "layers.0."
    return prefix + name.removeprefix("layer.") if name.startswith("layer.") else name


def _check_tensors(config: HeadConfig, tensors: dict[str, Tensor]) -> None:
    """Raises `HeadFormatError` unless these are the tensors of such a head."""
    shapes = tensor_shapes(config)
    optional = {"layer.self_attn.o_proj.bias"}
    if config.hidden_size == config.target_hidden_size:
        optional.add("embed_tokens.weight")  # the target's will do
    missing = shapes.keys() - optional - tensors.keys(), "missing but expected"
    extra = tensors.keys() - shapes.keys(), "there but not expected"
    for names, problem in (missing, extra):
        if names:
            raise HeadFormatError(
                f"{_listed(names, config)} {problem} by the {_CONFIG} of an EAGLE-{config.version} "
                f'head; correct its "bias", "attention_bias", "fc_norm" or "norm_before_fc", or '
                f"{_SAME_HEAD}."
            )
    for name, tensor in sorted(tensors.items()):
        _check_tensor(_published(name, config), tensor, shapes[name], _FLOATS)


def _check_tensor(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]
) -> Tensor:
    if tuple(tensor.shape) != shape or tensor.dtype not in dtypes:
        expected = "unquantised floats" if dtypes is _FLOATS else "whole numbers"
        raise HeadFormatError(
            f"{name} is {tensor.dtype} {list(tensor.shape)}, but {_CONFIG} asks for {expected} "
            f"{list(shape)}; {_SAME_HEAD}."
        )
    return tensor


def _listed(names: Iterable[str], config: HeadConfig) -> str:
    """At most five names and a verb."""
    listed = sorted(_published(name, config) for name in names)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return f"{', '.join(listed[:5])}{more} {'is' if len(listed) == 1 else 'are'}"


def _draft_token_ids(config: HeadConfig, d2t: Tensor | None, t2d: Tensor | None) -> Tensor:
    """d2t holds target id minus draft id, [Vd]; t2d marks the target's tokens kept, [V]."""
    size, vocab_size = config.draft_vocab_size, config.vocab_size
    ids = torch.arange(size)
    if d2t is not None:
        ids += _check_tensor("d2t", d2t, (size,), _WHOLE).long()
    elif size < vocab_size:
        raise HeadFormatError(f"d2t is missing, which maps {size} draft tokens; {_SAME_HEAD}.")
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        draft = int(outside.int().argmax())
        raise HeadFormatError(
            f"d2t maps draft token {draft} to {int(ids[draft])}, but the target's tokens are 0 to "
            f"{vocab_size - 1}; d2t must hold target id minus draft id."
        )
    if t2d is not None and size < vocab_size:
        is_mapped_V = torch.zeros(vocab_size, dtype=torch.bool).index_fill_(0, ids, True)
        differs_V = _check_tensor("t2d", t2d, (vocab_size,), _WHOLE).bool() != is_mapped_V
        if differs_V.any():
            token = int(differs_V.int().argmax())
            found, mapped = ("drops", "keeps it") if is_mapped_V[token] else ("keeps", "drops it")
            raise HeadFormatError(f"t2d {found} token {token}, but d2t {mapped}; {_SAME_HEAD}.")
    return ids


def _vocabulary(config: HeadConfig, ids: Tensor | None) -> dict[str, Tensor]:
    """d2t and t2d of rising token ids."""
    if ids is None:
        raise HeadFormatError("draft_token_ids is missing.")
    ids = _check_tensor("draft_token_ids", ids, (config.draft_vocab_size,), _WHOLE).long()
    if not bool((ids.diff() > 0).all()):
        raise HeadFormatError("draft_token_ids must rise, as other servers take for granted.")
    offsets = ids - torch.arange(len(ids))
    ids = _draft_token_ids(config, offsets, None)
    kept = torch.zeros(config.vocab_size, dtype=torch.bool).index_fill_(0, ids, True)
    return {"d2t": offsets, "t2d": kept}


def _document(config: HeadConfig, tensors: dict[str, Tensor], target: str) -> dict[str, Any]:
    """A config.json for EAGLE's own loader, SpecForge, SGLang and vLLM."""
    document = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "target_architectures": [target],
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": 1,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_key_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.hidden_act,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
        "max_position_embeddings": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "draft_vocab_size": config.draft_vocab_size,
        "attention_bias": config.has_qkv_bias,
        "tie_word_embeddings": False,
        "torch_dtype": str(tensors["fc.weight"].dtype).removeprefix("torch."),
        # vLLM reads the layers whose input is tapped here; SGLang and SpecForge read eagle_config
        # and mean the layers before them.
        "eagle_aux_hidden_state_layer_ids": list(config.layer_ids),
        "eagle_config": {
            "use_aux_hidden_state": True,
            "eagle_aux_hidden_state_layer_ids": [i - 1 for i in config.layer_ids],
        },
    }
    # EAGLE's own loader takes this field as word that the file holds the embeddings.
    if "embed_tokens.weight" in tensors:
        document["target_hidden_size"] = config.target_hidden_size
    # Left out where false: SpecForge takes `norm_output: false` for no norm before lm_head at all.
    switches = {name: getattr(config, name) for name in _SWITCHES} | {"bias": config.has_fc_bias}
    return document | {name: True for name, value in switches.items() if value}
