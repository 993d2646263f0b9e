"""The best of several answers to one prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cast_server.api.formats import FinishedChoice


def best_choices(
    choices: Sequence[FinishedChoice], copies: int, num_kept: int
) -> list[FinishedChoice]:
    """Of every `copies` choices the `num_kept` whose tokens were likeliest on average, best first.

    Of equals the earlier is better. If all are kept they stay in order.
    """
    if num_kept == copies:
        return list(choices)
    prompts = [choices[begin : begin + copies] for begin in range(0, len(choices), copies)]
    return [
        choice
        for answers in prompts
        for choice in sorted(answers, key=_mean_logprob, reverse=True)[:num_kept]
    ]


def _mean_logprob(choice: FinishedChoice) -> float:
    logprobs = [token.logprob for token in choice.logprobs]
    mean = sum(logprobs) / len(logprobs) if logprobs else math.nan
    return -math.inf if math.isnan(mean) else mean
