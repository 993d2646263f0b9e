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
_MAX_NAMED: Final = 5
_VOCABULARY: Final = ("d2t", "t2d")
_PREFIX: Final = re.compile(r"^(?:(?:model|eagle|draft_model|module)\.)+")
_LAYER: Final = re.compile(r"^(?:midlayer|layers\.0)\.")
_MORE_LAYERS: Final = re.compile(r"^layers\.[1-9]")
# Computed anew, and copies of the target's that training kept beside the head.
_IGNORED: Final = re.compile(r"rotary_emb\.|^verifier_(?:norm|lm_head)\.")


def read_head(directory: Path, target: TargetShape) -> tuple[HeadConfig, dict[str, Tensor]]:
    """Reads config.json and the weights beside it, onto the CPU, in the dtype they are stored in.

    Returns the tensors of `tensor_shapes` and `draft_token_ids`, int64 [draft_vocab_size]: the
    target's id of each draft id. Raises `HeadFormatError` for files that are missing, damaged, not
    supported or do not fit the target.
    """
    if not directory.is_dir():
        raise HeadFormatError(
            f"There is no directory {directory}; nothing is downloaded, so put the head's "
            f"{_CONFIG} and {_WEIGHTS} there first."
        )
    path = directory / _CONFIG
    with _in_file(path):
        config = parse_config(_read_json(path), target)
    path = _find_weights(directory)
    found = _read_weights(path)
    with _in_file(path):
        tensors = _rename(found)
        vocabulary = {name: tensors.pop(name) for name in _VOCABULARY if name in tensors}
        _check_tensors(config, tensors)
        tensors["draft_token_ids"] = _draft_token_ids(config, vocabulary)
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
    text = json.dumps(document, indent=2) + "\n"
    _replace(directory / _CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


# Files


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
    except (OSError, ValueError, RecursionError) as error:
        raise HeadFormatError(f"the file is damaged ({error}); copy it again.") from error
    if not isinstance(document, dict):
        raise HeadFormatError(f"expected a JSON object, got {type(document).__name__}.")
    return document


def _find_weights(directory: Path) -> Path:
    names = (_WEIGHTS, _INDEX, _PICKLE)
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise HeadFormatError(
        f"{directory}: there are no weights; copy the head's {' or '.join(names[::2])} there."
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.name != _INDEX:
        with _in_file(path):
            return _read_tensors(path)
    with _in_file(path):
        shards = _read_json(path).get("weight_map")
        names = list(shards.values()) if isinstance(shards, dict) else [None]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise HeadFormatError("weight_map must map tensors to files beside it; copy it again.")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(names)):
        with _in_file(path.with_name(name)):
            tensors |= _read_tensors(path.with_name(name))
    return tensors


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise HeadFormatError(f"{_INDEX} names the file, but it is missing; copy it too.")
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error).split("\n")[0][:120]
        raise HeadFormatError(
            f"the file is damaged ({type(error).__name__}: {reason}); copy it again, with "
            "`git lfs pull` in a git checkout."
        ) from error
    is_head = isinstance(loaded, dict) and all(isinstance(t, Tensor) for t in loaded.values())
    if not is_head:
        raise HeadFormatError("expected names and tensors; save the head's state_dict() alone.")
    return loaded


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


# Tensors


def _rename(found: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        short = _PREFIX.sub("", str(name))
        if _IGNORED.search(short):
            continue
        if _MORE_LAYERS.match(short):
            raise HeadFormatError(
                f"{name} belongs to a second layer, but only heads of one layer are supported."
            )
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
    shapes = tensor_shapes(config)
    optional = {"layer.self_attn.o_proj.bias"}
    if config.hidden_size == config.target_hidden_size:
        optional.add("embed_tokens.weight")  # the target's will do
    if missing := shapes.keys() - optional - tensors.keys():
        raise HeadFormatError(
            f"{_names(missing, config)} missing, which an EAGLE-{config.version} head with this "
            f"{_CONFIG} has; copy the weights again or correct {_CONFIG}{_hint(missing)}."
        )
    if extra := tensors.keys() - shapes.keys():
        raise HeadFormatError(
            f"{_names(extra, config)} unexpected: an EAGLE-{config.version} head with this "
            f"{_CONFIG} has no such thing; correct {_CONFIG}{_hint(extra)} or name another head."
        )
    for name, shape in shapes.items():
        tensor = tensors.get(name)
        if tensor is not None and tuple(tensor.shape) != shape:
            raise HeadFormatError(
                f"{_published(name, config)} has the shape {list(tensor.shape)}, but {_CONFIG} "
                f"says {list(shape)}; use weights and {_CONFIG} of the same head."
            )
        if tensor is not None and tensor.dtype not in (torch.float, torch.half, torch.bfloat16):
            raise HeadFormatError(
                f"{_published(name, config)} is stored as {tensor.dtype}, but float16, bfloat16 or "
                "float32 is expected; name the unquantised head."
            )


def _names(names: Iterable[str], config: HeadConfig) -> str:
    """At most five names and a verb."""
    listed = sorted(_published(name, config) for name in names)
    text = ", ".join(listed[:_MAX_NAMED])
    if len(listed) > _MAX_NAMED:
        text += f" and {len(listed) - _MAX_NAMED} more"
    return f"{text} {'is' if len(listed) == 1 else 'are'}"


def _hint(names: Iterable[str]) -> str:
    """Which fields of config.json govern one of these tensors."""
    text = " ".join(names)
    fields = {
        "fc.bias": "bias",
        "_proj.bias": "attention_bias",
        "fc_norm.": "fc_norm",
        "input_norm.": "norm_before_fc",
    }
    matches = [f'"{field}"' for part, field in fields.items() if part in text]
    return f" ({', '.join(matches)})" if matches else ""


# Vocabulary


def _draft_token_ids(config: HeadConfig, vocabulary: dict[str, Tensor]) -> Tensor:
    size = config.draft_vocab_size
    ids = torch.arange(size)
    offsets, kept = vocabulary.get("d2t"), vocabulary.get("t2d")
    if offsets is None and size < config.vocab_size:
        raise HeadFormatError(
            f"d2t is missing, which maps the {size} draft tokens to the target's "
            f"{config.vocab_size}; copy the weights again."
        )
    if offsets is not None:
        _check_vector("d2t", offsets, size)
        ids = ids + offsets.long()  # d2t holds target id minus draft id
    outside = (ids < 0) | (ids >= config.vocab_size)
    if outside.any():
        draft = int(outside.int().argmax())
        raise HeadFormatError(
            f"d2t maps draft token {draft} to {int(ids[draft])}, but the target's tokens are 0 to "
            f"{config.vocab_size - 1}; d2t must hold target id minus draft id."
        )
    if kept is not None and size < config.vocab_size:
        _check_vector("t2d", kept, config.vocab_size)
        _check_agreement(ids, kept.bool())
    if len(ids.unique()) != size:
        raise HeadFormatError(
            f"d2t maps {size} draft tokens to only {len(ids.unique())} of the target's; d2t must "
            "hold target id minus draft id."
        )
    return ids


def _check_vector(name: str, vector: Tensor, size: int) -> None:
    is_whole = not (vector.is_floating_point() or vector.is_complex())
    if tuple(vector.shape) != (size,) or not is_whole:
        raise HeadFormatError(
            f"{name} is {vector.dtype} {list(vector.shape)}, but {_CONFIG} asks for whole numbers "
            f"[{size}]; use weights and {_CONFIG} of the same head."
        )


def _check_agreement(ids: Tensor, kept: Tensor) -> None:
    marked = torch.zeros_like(kept)
    marked[ids] = True
    if not torch.equal(marked, kept):
        token = int((marked != kept).int().argmax())
        found, expected = ("keeps", "does not") if kept[token] else ("drops", "does")
        raise HeadFormatError(
            f"t2d {found} token {token}, but d2t {expected} map to it; copy the weights again."
        )


def _vocabulary(config: HeadConfig, ids: Tensor | None) -> dict[str, Tensor]:
    """d2t and t2d of rising token ids."""
    if ids is None:
        raise HeadFormatError("draft_token_ids is missing.")
    _check_vector("draft_token_ids", ids, config.draft_vocab_size)
    if not bool((ids.diff() > 0).all()):
        raise HeadFormatError("draft_token_ids must rise, as other servers take for granted.")
    offsets = ids.long() - torch.arange(len(ids))
    kept = torch.zeros(config.vocab_size, dtype=torch.bool)
    _draft_token_ids(config, {"d2t": offsets})
    kept[ids.long()] = True
    return {"d2t": offsets, "t2d": kept}


def _document(config: HeadConfig, tensors: dict[str, Tensor], target: str) -> dict[str, Any]:
    """A config.json for EAGLE's own loader, SpecForge, SGLang and vLLM."""
    ids = list(config.layer_ids)
    document: dict[str, Any] = {
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
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": str(tensors["fc.weight"].dtype).removeprefix("torch."),
        # vLLM reads the layers whose input is tapped here; SGLang and SpecForge read eagle_config
        # and mean the layers before them.
        "eagle_aux_hidden_state_layer_ids": ids,
        "eagle_config": {
            "use_aux_hidden_state": True,
            "eagle_aux_hidden_state_layer_ids": [i - 1 for i in ids],
        },
    }
    # EAGLE's own loader takes this field as word that the file holds the embeddings.
    if "embed_tokens.weight" in tensors:
        document["target_hidden_size"] = config.target_hidden_size
    # Left out where false: SpecForge takes `norm_output: false` for no norm before lm_head at all.
    flags = {
        "bias": config.has_fc_bias,
        "norm_before_residual": config.norm_before_residual,
        "norm_before_fc": config.norm_before_fc,
        "fc_norm": config.fc_norm,
        "norm_output": config.norm_output,
    }
    return document | {name: True for name, value in flags.items() if value}
