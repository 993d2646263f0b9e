"""The heads that come with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_DIRECTORY: Final = Path(__file__).parent / "heads"


def shipped_head(target: str) -> Path:
    """The directory of the head for a built-in model. Raises `ValueError` if there is none."""
    directory = _DIRECTORY / target
    if not (directory / "config.json").exists():
        raise ValueError(
            f"No head ships for {target}: name one with --head, or train one with cast-train."
        )
    return directory
