"""Texts to evaluate, from a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cast_server.errors import ConfigError


def read_texts(path: Path) -> list[str]:
    """JSON lines with a "text" each (or "prompt", or "question"), or plain text whose pieces have
    an empty line between them. Raises `ConfigError` with the line that cannot be read."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--input {path} cannot be read: {error}") from error
    if path.suffix in (".jsonl", ".json"):
        lines = enumerate(content.splitlines(), start=1)
        texts = [_text_of(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    else:
        texts = [piece.strip() for piece in re.split(r"\n\s*\n", content) if piece.strip()]
    if not texts:
        raise ConfigError(f"--input {path} holds no text.")
    return texts


def _text_of(line: str, where: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON: {error}") from error
    if isinstance(entry, dict):
        for name in ("text", "prompt", "question"):
            if isinstance(entry.get(name), str):
                return str(entry[name])
    raise ConfigError(f'{where} needs a JSON object with a "text".')
