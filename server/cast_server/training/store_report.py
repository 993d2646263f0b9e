"""What an n-gram store is worth by the text it was made of: size on disk against hits."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cast_drafters.ngram_store import NgramStore, build_store
from cast_drafters.sources import TAIL
from cast_server.training.corpus import Conversation

_SHARES: Final = (0.125, 0.25, 0.5, 1.0)


def measure_store(
    trained: Sequence[Conversation], held_out: Sequence[Conversation], vocab_size: int
) -> list[dict[str, Any]]:
    """For growing parts of `trained`: tokens, megabytes and the share of held-out answer tokens
    among the first 1, 4 and 8 predictions."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for share in _SHARES:
            part = trained[: round(share * len(trained))]
            path = Path(scratch) / f"{share}.store"
            texts = [[*one.prompt, *one.answer] for one in part]
            build_store(texts, path, vocab_size=vocab_size)
            store = NgramStore.open(path)
            hits = _hits(store, held_out)
            rows.append(
                {
                    "tokens": sum(map(len, texts)),
                    "megabytes": round(path.stat().st_size / 1e6, 2),
                    "top_1_4_8": [round(hit, 3) for hit in hits],
                }
            )
    return rows


def _hits(store: NgramStore, held_out: Sequence[Conversation]) -> tuple[float, float, float]:
    counts, total = [0, 0, 0], 0
    for one in held_out:
        tokens = [*one.prompt, *one.answer]
        for place in range(len(one.prompt), len(tokens)):
            tail = tokens[max(0, place - TAIL) : place]
            offered = [token for token, *_ in store.predict(tail, 8)]
            for index, width in enumerate((1, 4, 8)):
                counts[index] += tokens[place] in offered[:width]
            total += 1
    first, fourth, eighth = (count / max(1, total) for count in counts)
    return first, fourth, eighth
