"""The target's choice at a position: every sampling parameter, then position-keyed noise.

Order: repetition, presence and frequency penalties; logit bias; minimum length; grammar;
temperature; top-k; top-p; min-p. Each is evaluated for the row's own prefix: the sequence's tokens
and the path of its tree. Ties at the edge of top-k and top-p are all kept, so that the result
depends on no sort order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cast_kernels.gumbel import gumbel_argmax, highest
from cast_server.engine.request import SamplingParams, TokenLogprob
from cast_server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Position:
    """Where a token is to be chosen: behind `path`, tokens that are drafted but not committed."""

    sequence: Sequence
    path: tuple[int, ...] = ()

    @property
    def index(self) -> int:
        """How many output tokens come before; the counter of the noise."""
        return self.sequence.num_output + len(self.path)


def is_plain(sequence: Sequence) -> bool:
    """Nothing but temperature and noise stands between logits and choice, now and later on."""
    params = sequence.params
    is_whole = params.top_k == 0 and params.top_p >= 1.0 and params.min_p == 0.0
    return is_whole and _is_plain(Position(sequence))


def choose(logits_RV: Tensor, positions: Seq[Position]) -> list[int]:
    """The token that the target chooses at each position. logits_RV: float32, not changed."""
    params = [position.sequence.params for position in positions]
    shaped = [i for i, position in enumerate(positions) if not _is_plain(position)]
    if shaped:
        logits_RV = logits_RV.clone()
    for row in shaped:
        _shape(logits_RV[row], positions[row])
    noisy = [row for row, one in enumerate(params) if not one.is_greedy]
    if len(noisy) < len(params):
        tokens = highest(logits_RV)
    else:
        tokens = torch.empty(len(params), dtype=torch.int64, device=logits_RV.device)
    if noisy:
        own_RV = logits_RV if len(noisy) == len(params) else logits_RV[noisy]
        tokens[noisy] = _sample(own_RV, [positions[row] for row in noisy])
    result: list[int] = tokens.tolist()
    return result


def _sample(logits_RV: Tensor, positions: Seq[Position]) -> Tensor:
    def column(values: list[float] | list[int]) -> Tensor:
        return torch.tensor(values, device=logits_RV.device)

    temperatures = column([p.sequence.params.temperature for p in positions])
    # Subtracting the maximum first keeps tiny temperatures finite.
    scores_RV = logits_RV - logits_RV.amax(-1, keepdim=True)
    scores_RV /= temperatures[:, None]
    for scores_V, position in zip(scores_RV, positions, strict=True):
        _filter(scores_V, position.sequence.params)
    seeds = column([p.sequence.request.seed for p in positions])
    return gumbel_argmax(scores_RV, seeds, column([p.index for p in positions]))


def top_logprobs(logits_V: Tensor, token_id: int, count: int) -> TokenLogprob:
    """Of the model's own distribution, before any sampling parameter."""
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(count)
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token_id, float(logprobs_V[token_id]), top)


def _is_plain(position: Position) -> bool:
    params = position.sequence.params
    too_short = position.index < params.min_tokens
    is_free = params.grammar is None
    return is_free and not (params.has_penalties or params.logit_bias or too_short)


def _shape(logits_V: Tensor, position: Position) -> None:
    """Penalties, bias, minimum length and grammar; in place."""
    sequence, params = position.sequence, position.sequence.params
    if params.has_penalties:
        _penalise(logits_V, position)
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits_V.device)
        logits_V[ids] += torch.tensor(list(params.logit_bias.values()), device=logits_V.device)
    too_early = sequence.stop_ids if position.index < params.min_tokens else frozenset()
    if sequence.grammar is not None:
        allowed_V = torch.from_numpy(sequence.grammar.allowed(position.path, too_early))
        logits_V.masked_fill_(~allowed_V.to(logits_V.device), -torch.inf)
    elif too_early:
        logits_V[torch.tensor(sorted(too_early), device=logits_V.device)] = -torch.inf


def _penalise(logits_V: Tensor, position: Position) -> None:
    """Repetition: Keskar et al. 2019, over prompt and output. The others as OpenAI defines them."""
    sequence, params = position.sequence, position.sequence.params
    counts = sequence.output_counts + Counter(position.path)
    if params.repetition_penalty != 1.0:
        seen = sorted({*sequence.token_ids, *position.path})
        ids = torch.tensor(seen, device=logits_V.device)
        old = logits_V[ids]
        factor = params.repetition_penalty
        logits_V[ids] = torch.where(old > 0, old / factor, old * factor)
    if counts and (params.presence_penalty or params.frequency_penalty):
        ids = torch.tensor(list(counts), device=logits_V.device)
        times = torch.tensor(list(counts.values()), device=logits_V.device)
        logits_V[ids] -= params.presence_penalty + params.frequency_penalty * times


def _filter(scores_V: Tensor, params: SamplingParams) -> None:
    """In place; the greatest score is 0."""
    if 0 < params.top_k < len(scores_V):
        _forbid_below(scores_V, scores_V.topk(params.top_k).values[-1])
    if params.top_p < 1.0:
        sorted_A = _descending(scores_V[scores_V != -torch.inf])  # A: not forbidden, NaN is not
        mass_A = sorted_A.softmax(-1)
        mass_before_A = mass_A.cumsum(-1) - mass_A
        _forbid_below(scores_V, sorted_A[int((mass_before_A < params.top_p).sum()) - 1])
    if params.min_p > 0.0:
        # p(v) < min_p * p_max, in logarithms.
        _forbid_below(scores_V, torch.tensor(params.min_p, device=scores_V.device).log())


def _descending(scores_A: Tensor) -> Tensor:
    """Sorted; numpy takes a fraction of the time of torch on a CPU."""
    if scores_A.device.type != "cpu":
        return scores_A.sort(descending=True).values
    return torch.from_numpy(np.sort(scores_A.numpy())).flip(0)


def _forbid_below(scores_V: Tensor, least: Tensor) -> None:
    scores_V.masked_fill_(scores_V < least, -torch.inf)
