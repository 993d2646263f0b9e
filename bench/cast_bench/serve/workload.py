"""What the load asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random

from cast_bench.prompts import PROMPTS
from cast_server.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and its place among all that are asked."""

    index: int
    prompt: str


def prompts_of(dataset: Path | None, seed: int) -> list[str]:
    """All prompts that there are, shuffled. Raises `ConfigError` for a file that cannot be read."""
    prompts = list(PROMPTS) if dataset is None else _read(dataset)
    Random(seed).shuffle(prompts)
    return prompts


def questions(prompts: Sequence[str], count: int, skip: int) -> list[Question]:
    """`count` questions, the first `skip` left out, from the beginning again where they end."""
    asked = enumerate(islice(cycle(prompts), skip, skip + count), skip)
    return [Question(index, prompt) for index, prompt in asked]


def _read(dataset: Path) -> list[str]:
    from cast_bench.acceptance import read_questions  # torch: only where there is a file

    try:
        prompts = read_questions(dataset, count=1_000_000)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(
            f'--dataset {dataset}: no lines of JSON with "turns" ({type(error).__name__}: {error}).'
        ) from None
    if not prompts:
        raise ConfigError(f"--dataset {dataset}: no question in it.")
    return prompts
