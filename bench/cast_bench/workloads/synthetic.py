"""Made-up tokens: no model can guess what follows, so this is the worst case for drafts."""

from __future__ import annotations

from typing import Any

import numpy as np


def random_prompts(
    tokenizer: Any, count: int, seed: int, *, input_len: int, prefix_len: int
) -> list[list[int]]:
    """`count` prompts of `input_len` tokens, none of them a special one."""
    del prefix_len
    return _tokens(tokenizer, count, input_len, np.random.default_rng(seed))


def shared_prefix_prompts(
    tokenizer: Any, count: int, seed: int, *, input_len: int, prefix_len: int
) -> list[list[int]]:
    """The same `prefix_len` tokens before `input_len` of each prompt's own."""
    generator = np.random.default_rng(seed)
    [prefix] = _tokens(tokenizer, 1, prefix_len, generator)
    return [prefix + own for own in _tokens(tokenizer, count, input_len, generator)]


def _tokens(
    tokenizer: Any, count: int, length: int, generator: np.random.Generator
) -> list[list[int]]:
    # Not those added to the vocabulary: they steer a chat.
    usual = np.setdiff1d(np.arange(len(tokenizer)), list(tokenizer.all_special_ids))
    prompts: list[list[int]] = generator.choice(usual, (count, length)).tolist()
    return prompts
