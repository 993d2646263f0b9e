"""What the load asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from random import Random
from typing import Final

from cast_bench.workloads import SYNTHETIC, TASKS, texts
from cast_server.errors import ConfigError

_ALL: Final = 1_000_000  # prompts of a file


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and its place among all that are asked."""

    index: int
    prompt: str


def prompts_of(datasets: Sequence[str], seed: int) -> list[str]:
    """All prompts that there are, shuffled. Raises `ConfigError` for a workload that cannot be had.

    Made-up tokens are not texts, and differ from tokenizer to tokenizer.
    """
    for name in datasets:
        if name in SYNTHETIC:
            raise ConfigError(
                f"--dataset {name}: only texts can be sent; choose a file or {', '.join(TASKS)}."
            )
    prompts = [text for name in datasets for text in texts(name, _ALL)]
    Random(seed).shuffle(prompts)
    return prompts


def questions(prompts: Sequence[str], count: int, skip: int) -> list[Question]:
    """`count` questions, the first `skip` left out, from the beginning again where they end."""
    asked = enumerate(islice(cycle(prompts), skip, skip + count), skip)
    return [Question(index, prompt) for index, prompt in asked]
