"""From the name of a workload to token ids: the tables, and who reads what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cast_bench.prompts import chat_ids
from cast_bench.workloads import questions, sharegpt, synthetic
from cast_server.errors import ConfigError

TASKS: Final = ("chat", "code", "maths", "instructions", "summarising", "questions")


@dataclass(frozen=True, slots=True)
class Format:
    """`read` returns the first so many prompts of a file; `expects` is what it must look like."""

    read: Callable[[Path, int], list[str]]
    expects: str


# By how a file's name ends.
FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        ".jsonl": Format(questions.read, 'an object a line, whose "turns" are texts'),
        ".json": Format(sharegpt.read, 'a list of objects with "conversations" or "messages"'),
    }
)

SYNTHETIC: Final[Mapping[str, Callable[..., list[list[int]]]]] = MappingProxyType(
    {"random": synthetic.random_prompts, "shared-prefix": synthetic.shared_prefix_prompts}
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """`dataset` is the name of the workload that it is from."""

    dataset: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """How many prompts of each workload. Lengths, in tokens, and the seed are of made-up ones."""

    count: int
    input_len: int = 32
    prefix_len: int = 256
    seed: int = 0


def load(names: Sequence[str], wish: Wish, tokenizer: Any) -> list[list[Prompt]]:
    """By workload, in the order of `names`. Raises `ConfigError` for one that cannot be had."""
    return [_load(name, wish, tokenizer) for name in names]


def in_turns(workloads: Sequence[Sequence[Prompt]]) -> list[Prompt]:
    """One of each, then the next of each: any stretch of it has about as many of all."""
    return [one for some in zip_longest(*workloads) for one in some if one is not None]


def _load(name: str, wish: Wish, tokenizer: Any) -> list[Prompt]:
    if name in SYNTHETIC:
        ids = SYNTHETIC[name](
            tokenizer, wish.count, wish.seed, input_len=wish.input_len, prefix_len=wish.prefix_len
        )
    else:
        ids = [chat_ids(tokenizer, text) for text in texts(name, wish.count)]
    return [Prompt(Path(name).stem, tuple(one)) for one in ids]


def texts(name: str, count: int) -> list[str]:
    """The first so many prompts of a workload that is made of texts. Raises `ConfigError`."""
    path = Path(__file__).with_name(f"{name}.jsonl") if name in TASKS else Path(name)
    if not path.is_file():
        known = ", ".join([*TASKS, *SYNTHETIC])
        raise ConfigError(f"--dataset {name}: no such file, and no workload of {known}.")
    if path.suffix not in FORMATS:
        known = " or ".join(FORMATS)
        raise ConfigError(f"--dataset {name}: the name of the file must end in {known}.")
    kind = FORMATS[path.suffix]
    try:
        found = kind.read(path, count)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"--dataset {name} cannot be read ({error!r}): it must hold {kind.expects}."
        ) from error
    if not found:
        raise ConfigError(f"--dataset {name}: there is no prompt in it.")
    return found
