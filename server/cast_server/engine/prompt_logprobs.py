"""How likely the tokens of prompts were, read off the rows that their prefill computes anyway.

A chunk is read in the step that computes it, so nothing of it is read twice or missed, however
the prompt is cut up and preempted. Of each row only what is reported is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from cast_server.engine.request import RequestOutput, TokenLogprob
from cast_server.engine.scheduler import Scheduled

_ROWS: Final = 64  # normalised at a time: a whole chunk's log-probabilities would be another V wide

PromptLogprobs = Mapping[str, tuple[TokenLogprob, ...]]


def read_prompts(scheduled: Seq[Scheduled], logits_RV: Tensor) -> PromptLogprobs:
    """What a step tells of the prompts in it, by request; before its tokens count as computed.

    logits_RV: float32, of all unread positions, in order of sequence and position.
    """
    read: dict[str, tuple[TokenLogprob, ...]] = {}
    begin = 0
    for one in scheduled:
        sequence, unread = one.sequence, one.unread
        count = sequence.params.prompt_logprobs
        if unread and count is not None:
            following = sequence.token_ids[unread.start + 1 : unread.stop + 1]
            read[sequence.id] = _read(logits_RV[begin : begin + len(unread)], following, count)
            begin += len(unread)
    return read


def with_prompts(outputs: list[RequestOutput], prompts: PromptLogprobs) -> list[RequestOutput]:
    """The outputs of a step, and news of the requests whose prompts go on in the next."""
    if not prompts:
        return outputs
    told = {output.request_id for output in outputs}
    merged = [replace(one, prompt_logprobs=prompts.get(one.request_id, ())) for one in outputs]
    return merged + [
        RequestOutput(request_id=name, prompt_logprobs=logprobs)
        for name, logprobs in prompts.items()
        if name not in told
    ]


@torch.inference_mode()
def _read(logits_RV: Tensor, token_ids: Seq[int], count: int) -> tuple[TokenLogprob, ...]:
    """Of each row, how likely its token was, and the `count` likeliest."""
    ids_R = torch.tensor(token_ids, device=logits_RV.device)
    read: list[TokenLogprob] = []
    for rows_PV, ids_P in zip(logits_RV.split(_ROWS), ids_R.split(_ROWS), strict=True):
        logprobs_PV = rows_PV.log_softmax(-1)
        chosen_P1 = logprobs_PV.gather(1, ids_P[:, None])
        rank_P = 1 + (logprobs_PV > chosen_P1).sum(-1)
        top_PC, top_ids_PC = logprobs_PV.topk(count)
        columns = (ids_P, chosen_P1[:, 0], top_ids_PC, top_PC, rank_P)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        read += [
            TokenLogprob(token_id, logprob, tuple(zip(ids, values, strict=True)), rank)
            for token_id, logprob, ids, values, rank in rows
        ]
    return tuple(read)
