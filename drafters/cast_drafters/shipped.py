"""The heads that come with the project."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_DIRECTORY: Final = Path(__file__).parent / "heads"


def has_shipped_head(target: str) -> bool:
    """Whether a head comes with the project for the built-in model `target`."""
    # A target may also go by its path, and joining an absolute path would leave our directory.
    return Path(target).name == target and (_DIRECTORY / target / "config.json").exists()


def shipped_head(target: str) -> Path:
    """The directory of the head for a built-in model. Raises `ValueError` if there is none."""
    if not has_shipped_head(target):
        raise ValueError(
            f"No head ships for {target}: name one with --head, or train one with cast-train."
        )
    return _DIRECTORY / target
