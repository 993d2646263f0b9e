"""From an engine and its configuration to a subject with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cast_drafters.eagle.config import TargetShape, parse_config
from cast_drafters.shipped import has_shipped_head, shipped_head
from cast_profiler.fingerprint import package_versions
from cast_server.config import EngineConfig
from cast_server.engine.async_engine import AsyncEngine
from cast_server.evaluators.subjects.served import ServedSubject
from cast_server.model_files import ModelFiles, resolve_model

_SAMPLE: Final = 2**20  # bytes read at the beginning, in the middle and at the end of a file
_WEIGHTS: Final = ("*.safetensors", "*.bin")


def served_subject(engine: AsyncEngine, config: EngineConfig) -> ServedSubject:
    """The served model, and its head if drafts come from an EAGLE-3 one."""
    return ServedSubject(engine, fingerprint(engine, config), _head(engine, config))


def _head(engine: AsyncEngine, config: EngineConfig) -> Path | None:
    if config.drafter not in ("auto", "eagle"):
        return None
    if config.head is None:
        return shipped_head(config.model) if has_shipped_head(config.model) else None
    directory = Path(config.head).expanduser()
    text = engine.model.config.get_text_config()
    target = TargetShape(text.hidden_size, text.vocab_size, text.num_hidden_layers)
    document = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return directory if parse_config(document, target).version == 3 else None


def fingerprint(engine: AsyncEngine, config: EngineConfig) -> Mapping[str, str]:
    """What makes numbers comparable. `weights` is a digest of the names and sizes of the weights'
    files and of three MiB of each: enough to tell models apart without reading them whole."""
    return {
        "model": engine.model_name,
        "weights": _weights_digest(resolve_model(config.model)),
        "tokenizer": _tokenizer_digest(engine.tokenizer),
        "dtype": str(engine.model.dtype).removeprefix("torch."),
        "engine": package_versions(),
    }


def _weights_digest(files: ModelFiles) -> str:
    if files.gguf_file is not None:
        paths = [files.directory / files.gguf_file]
    else:
        paths = sorted(path for kind in _WEIGHTS for path in files.directory.glob(kind))
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for begin in (0, size // 2, size - _SAMPLE):
                file.seek(max(0, begin))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _tokenizer_digest(tokenizer: Any) -> str:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    rules = fast.to_str() if fast is not None else repr(sorted(tokenizer.get_vocab().items()))
    rules += tokenizer.chat_template or ""
    return hashlib.blake2b(rules.encode(), digest_size=16).hexdigest()
