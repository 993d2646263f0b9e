"""Files in the public question format, as MT-bench and Spec-Bench have it."""

from __future__ import annotations

import json
from pathlib import Path


def read(path: Path, count: int) -> list[str]:
    """The first turns of the first `count` questions."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [_text(json.loads(line)["turns"][0]) for line in lines[:count]]


def _text(turn: object) -> str:
    if not isinstance(turn, str):
        raise TypeError(f"a turn is not a text: {turn!r}")
    return turn
