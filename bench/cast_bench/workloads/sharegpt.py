"""Files of conversations as ShareGPT exports them, and as others do with OpenAI's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_USERS: Final = frozenset({"human", "user"})


def read(path: Path, count: int) -> list[str]:
    """What the user says first in each conversation, of the first `count` that have it.

    "conversations" have "from" and "value", "messages" have "role" and "content".
    """
    records = json.loads(path.read_text(encoding="utf-8"))
    asked = (_first(record.get("conversations") or record.get("messages")) for record in records)
    return [text for text in asked if text][:count]


def _first(turns: Any) -> str | None:
    """Nothing for a conversation in which the user says nothing: exports have some."""
    for turn in turns or ():
        if turn.get("from", turn.get("role")) in _USERS:
            text = turn.get("value", turn.get("content"))
            return text if isinstance(text, str) else None
    return None
