"""The target's choice at a position: every sampling parameter, then position-keyed noise.

Order: repetition, presence and frequency penalties; logit bias; minimum length; temperature; top-k;
top-p; min-p. Each is evaluated for the row's own prefix: the sequence's tokens and the path of its
tree. Ties at the edge of top-k and top-p are all kept, so that the result depends on no sort order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from cast_kernels.gumbel import gumbel_argmax
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


def choose(logits_RV: Tensor, positions: Seq[Position]) -> list[int]:
    """The token that the target chooses at each position. logits_RV: float32, not changed."""
    plain = [_is_plain(position) for position in positions]
    if all(plain):
        return _argmax(logits_RV)
    scores_RV = torch.stack(
        [
            row if is_plain else _scores(row, position)
            for row, is_plain, position in zip(logits_RV, plain, positions, strict=True)
        ]
    )
    tokens = torch.empty(len(positions), dtype=torch.int64)
    greedy = torch.tensor([p.sequence.params.is_greedy for p in positions])
    seeds = torch.tensor([p.sequence.request.seed for p in positions])
    indices = torch.tensor([p.index for p in positions])
    device = logits_RV.device
    if greedy.any():
        tokens[greedy] = scores_RV[greedy.to(device)].argmax(-1).cpu()
    if not greedy.all():
        noisy = ~greedy
        tokens[noisy] = gumbel_argmax(
            scores_RV[noisy.to(device)], seeds[noisy].to(device), indices[noisy].to(device)
        ).cpu()
    result: list[int] = tokens.tolist()
    return result


def top_logprobs(logits_V: Tensor, token_id: int, count: int) -> TokenLogprob:
    """Of the model's own distribution, before any sampling parameter."""
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(count)
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token_id, float(logprobs_V[token_id]), top)


def _argmax(logits_RV: Tensor) -> list[int]:
    tokens: list[int] = logits_RV.argmax(-1).tolist()
    return tokens


def _is_plain(position: Position) -> bool:
    params = position.sequence.params
    too_short = position.index < params.min_tokens
    return params.is_greedy and not (params.has_penalties or params.logit_bias or too_short)


def _scores(logits_V: Tensor, position: Position) -> Tensor:
    """Log-probabilities up to a constant, -inf where forbidden; a new tensor."""
    sequence, params = position.sequence, position.sequence.params
    scores_V = logits_V.clone()
    if params.has_penalties:
        _penalise(scores_V, position)
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=scores_V.device)
        scores_V[ids] += torch.tensor(list(params.logit_bias.values()), device=scores_V.device)
    if position.index < params.min_tokens and sequence.stop_ids:
        scores_V[torch.tensor(sorted(sequence.stop_ids), device=scores_V.device)] = -torch.inf
    if params.is_greedy:
        return scores_V
    # Subtracting the maximum first keeps tiny temperatures finite.
    return _filter((scores_V - scores_V.max()) / params.temperature, params)


def _penalise(scores_V: Tensor, position: Position) -> None:
    """Repetition: Keskar et al. 2019, over prompt and output. The others as OpenAI defines them."""
    sequence, params = position.sequence, position.sequence.params
    counts = sequence.output_counts + Counter(position.path)
    if params.repetition_penalty != 1.0:
        seen = sorted({*sequence.token_ids, *position.path})
        ids = torch.tensor(seen, device=scores_V.device)
        old = scores_V[ids]
        factor = params.repetition_penalty
        scores_V[ids] = torch.where(old > 0, old / factor, old * factor)
    if counts and (params.presence_penalty or params.frequency_penalty):
        ids = torch.tensor(list(counts), device=scores_V.device)
        times = torch.tensor(list(counts.values()), device=scores_V.device)
        scores_V[ids] -= params.presence_penalty + params.frequency_penalty * times


def _filter(scores_V: Tensor, params: SamplingParams) -> Tensor:
    if 0 < params.top_k < len(scores_V):
        least = scores_V.topk(params.top_k).values[-1]
        scores_V = scores_V.masked_fill(scores_V < least, -torch.inf)
    if params.top_p < 1.0:
        sorted_V = scores_V.sort(descending=True).values
        mass_before_V = sorted_V.softmax(-1).cumsum(-1) - sorted_V.softmax(-1)
        least = sorted_V[int((mass_before_V < params.top_p).sum()) - 1]
        scores_V = scores_V.masked_fill(scores_V < least, -torch.inf)
    if params.min_p > 0.0:
        # p(v) < min_p * p_max, in logarithms; the maximum is 0 here.
        least = torch.tensor(params.min_p, device=scores_V.device).log()
        scores_V = scores_V.masked_fill(scores_V < least, -torch.inf)
    return scores_V
