"""A checkpoint's files, without their contents: are they there, whole and as many as needed?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final

from cast_server.errors import ConfigError

_INDEX: Final = "model.safetensors.index.json"
_PICKLES: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def count_stored(directory: Path) -> int | None:
    """How many numbers the checkpoint holds, read off the headers of its files.

    None for pickles, which do not tell. Raises `ConfigError` for files that are missing or damaged.
    """
    paths = _shards(directory)
    if not paths:
        if any((directory / name).is_file() for name in _PICKLES):
            return None
        raise ConfigError(f"The directory {directory} holds no weights: no *.safetensors in it.")
    return sum(_count(path) for path in paths)


def _shards(directory: Path) -> list[Path]:
    index = directory / _INDEX
    if not index.is_file():
        return [path for path in [directory / "model.safetensors"] if path.is_file()]
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{index} is damaged; copy it again.") from error
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ConfigError(
            f"{directory} lacks {len(missing)} of its {len(names)} weight files, {missing[0]} for "
            "one; copy them too."
        )
    return [directory / name for name in names]


def _count(path: Path) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{path} is damaged ({reason}); copy it again.") from error
