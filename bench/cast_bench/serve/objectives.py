"""What an answer has to keep to count for goodput."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Final

from cast_bench.serve.answer import Answer

NAMES: Final = ("ttft", "tpot", "e2el")

Objectives = Mapping[str, float]  # name to milliseconds


def objective(word: str) -> tuple[str, float]:
    """From `ttft:500`: the name and milliseconds."""
    name, _, value = word.partition(":")
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = 0.0
    if name not in NAMES or not milliseconds > 0:
        raise argparse.ArgumentTypeError(
            f"{word!r} is no objective; write {', '.join(NAMES)} and milliseconds, as in ttft:500"
        )
    return name, milliseconds


def is_good(answer: Answer, objectives: Objectives) -> bool:
    """A failure never is. An answer of one token has no TPOT to miss."""
    if answer.failure is not None:
        return False
    seconds = {"ttft": answer.ttft, "tpot": answer.tpot or 0.0, "e2el": answer.seconds}
    return all(seconds[name] * 1000 <= limit for name, limit in objectives.items())
