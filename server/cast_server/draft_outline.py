"""A drafter as far as files tell, before any of it is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch

from cast_drafters.draft_model import check_config
from cast_drafters.eagle.checkpoint import read_head
from cast_drafters.eagle.config import TargetShape
from cast_drafters.eagle.drafter import SOURCES, STORE_FILE
from cast_drafters.eagle.footprint import head_bytes, slot_bytes
from cast_drafters.eagle.served import NUM_SCRATCH
from cast_drafters.registry import DRAFTERS
from cast_drafters.shipped import has_shipped_head, shipped_head
from cast_profiler.fingerprint import digest
from cast_server.config import EngineConfig
from cast_server.errors import ConfigError
from cast_server.model_files import ModelFiles
from cast_server.outline import Outline, read_outline
from cast_server.step_limits import kv_token_bytes


@dataclass(frozen=True, slots=True)
class DraftOutline:
    """`slot_bytes` of each token in the target's cache, and of `extra_slots` more; `store_bytes` of
    the n-grams that ship with a head. `head` is what profiles know it by."""

    name: str
    text: str
    weight_bytes: int = 0
    slot_bytes: int = 0
    extra_slots: int = 0
    store_bytes: int = 0
    head: str = ""


def drafter_name(config: EngineConfig) -> str:
    """What `--drafter auto` comes to."""
    if config.drafter != "auto":
        return config.drafter
    return "eagle" if config.head or has_shipped_head(config.model) else "ngram"


def read_draft_outline(config: EngineConfig, target: Outline, device: torch.device) -> DraftOutline:
    """Raises `ConfigError` for an unknown drafter, and for files that do not fit the target."""
    name = drafter_name(config)
    check_drafter_flags(config, name)
    try:
        return _READERS[name](config, target, device)
    except ValueError as cause:
        raise ConfigError(str(cause)) from cause


def check_drafter_flags(config: EngineConfig, name: str) -> None:
    """Raises `ConfigError` where flags ask of the drafter `name` what it does not do."""
    if name not in DRAFTERS:
        raise ConfigError(f"--drafter {name}: unknown; choose auto, {', '.join(DRAFTERS)}.")
    if config.learn_from_traffic and name != "eagle":
        raise ConfigError("--learn-from-traffic works with --drafter eagle only.")
    if config.head and name == "ngram":
        raise ConfigError(f"--head {config.head}: --drafter ngram has no head; leave one out.")


def _eagle(config: EngineConfig, target: Outline, device: torch.device) -> DraftOutline:
    directory = Path(config.head).expanduser() if config.head else shipped_head(config.model)
    sources = [one for one in config.draft_sources.split(",") if one]
    if unknown := set(sources) - set(SOURCES):
        raise ConfigError(
            f"--draft-sources {min(unknown)}: unknown; choose {' or '.join(SOURCES)}."
        )
    rows, width = target.model.get_input_embeddings().weight.shape
    shape = TargetShape(width, rows, target.text_config.num_hidden_layers)
    head, tensors = read_head(directory, shape)
    store = directory / STORE_FILE
    size = head_bytes(head, tensors, target.dtype, device)
    return DraftOutline(
        name="eagle",
        text=f"EAGLE-{head.version} head in {directory}, {head.draft_vocab_size} draft tokens",
        weight_bytes=size,
        slot_bytes=slot_bytes(head, target.dtype),
        extra_slots=NUM_SCRATCH,
        store_bytes=store.stat().st_size if "store" in sources and store.exists() else 0,
        head=digest(repr(head)),
    )


def _draft_model(config: EngineConfig, target: Outline, device: torch.device) -> DraftOutline:  # noqa: ARG001
    if config.head is None:
        raise ConfigError(
            "The drafter draft-model needs --head, the directory of a small model that has the "
            "target's tokenizer."
        )
    directory = Path(config.head).expanduser()
    if not (directory / "config.json").is_file():
        raise ConfigError(f"There is no draft model in {directory}: it holds no config.json.")
    model = read_outline(ModelFiles(directory, None, directory.name), target.dtype)
    rows = target.model.get_input_embeddings().weight.shape[0]
    check_config(model.model.config, directory, rows)
    return DraftOutline(
        name="draft-model",
        text=f"{type(model.model).__name__} in {directory}",
        weight_bytes=model.num_weights * target.dtype.itemsize,
        slot_bytes=kv_token_bytes(model.text_config, target.dtype),
        head=digest((directory / "config.json").read_text()),
    )


def _ngram(config: EngineConfig, target: Outline, device: torch.device) -> DraftOutline:  # noqa: ARG001
    return DraftOutline("ngram", "n-grams of the text itself")


_READERS: Final[Mapping[str, Callable[[EngineConfig, Outline, torch.device], DraftOutline]]] = (
    MappingProxyType({"eagle": _eagle, "draft-model": _draft_model, "ngram": _ngram})
)
