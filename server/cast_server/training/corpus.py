"""Conversations to train on, one JSON object a line: a file that can be read, cut and resumed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_HELD_OUT: Final = 32  # one conversation in so many is never trained on


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of a chat prompt and of the target's answer to it.

    `temperature` is the one that the answer was sampled at. Tokens of the answer are labels; those
    of the prompt are not.
    """

    id: int
    task: str
    temperature: float
    prompt: list[int]
    answer: list[int]

    @property
    def is_held_out(self) -> bool:
        return self.id % _HELD_OUT == 0

    @property
    def num_features(self) -> int:
        """Positions that the target has computed: all but the last token's."""
        return len(self.prompt) + len(self.answer) - 1


def read(path: Path) -> Iterator[Conversation]:
    """Conversations of a file, gzipped or not. A last line cut short by a kill is left out."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield Conversation(**json.loads(line))


def append(path: Path, conversation: Conversation) -> None:
    """Adds a line, complete or not at all for those who use `read`."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(conversation), separators=(",", ":")) + "\n")


def repair(path: Path) -> set[int]:
    """Cuts an unfinished last line off and tells which conversations are there."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n") + 1])
    return {conversation.id for conversation in read(path)}
