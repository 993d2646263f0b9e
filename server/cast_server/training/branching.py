"""What the target thinks of the head's own words: labels on prefixes only the head would write.

At a few rows of an answer the head drafts a chain; the target reads all chains in one pass, as
branches of one tree over the answer. Rejected drafts so become lessons (cf. on-policy distillation;
the target's distribution there is the label, not the text that came).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cast_drafters.eagle.head import EagleHead
from cast_drafters.eagle.unroll import Branches, Piece, run
from cast_kernels.tree_attention import SequenceRows
from cast_server.engine.forward_batch import ForwardBatch
from cast_server.engine.model_runner import ModelRunner
from cast_server.training.features import FeatureRecorder


class Brancher:
    """`starts` rows of each piece, `length` drafted tokens behind each.

    Takes `runner` over; its cache must hold a piece and all its branches.
    """

    def __init__(
        self,
        runner: ModelRunner,
        final_norm: Callable[[Tensor], Tensor],
        embedding_VE: Tensor,
        draft_token_ids: Tensor,
        starts: int = 24,
        length: int = 3,
    ) -> None:
        self._runner = runner
        self._final_norm = final_norm
        self._embedding_VE = embedding_VE
        self._draft_token_ids = draft_token_ids
        self._starts, self._length = starts, length
        num_layers = runner.model.config.get_text_config().num_hidden_layers
        self._recorder = FeatureRecorder(runner, (num_layers,))

    @torch.no_grad()
    def __call__(self, head: EagleHead, pieces: Sequence[Piece], seed: int) -> list[Piece]:
        """The pieces once more, with branches. Deterministic in its arguments."""
        generator = torch.Generator().manual_seed(seed)
        return [self._branch(head, one, generator) for one in pieces]

    def _branch(self, head: EagleHead, piece: Piece, generator: torch.Generator) -> Piece:
        rows = piece.starts()
        room = self._runner.kv_cache_YS2KD.shape[1] - len(piece.token_ids_T)
        count = min(len(rows), self._starts, max(0, room // self._length))
        chosen = rows[torch.randperm(len(rows), generator=generator)[:count]].sort().values
        empty = torch.empty(count, self._length, piece.final_TE.shape[1])
        no_tokens = torch.zeros(count, self._length, dtype=torch.int64)
        drafted: list[Tensor] = []

        def choose(logits_AV: Tensor) -> Tensor:
            drafted.append(self._draft_token_ids[logits_AV.argmax(-1)])
            return drafted[-1]

        asked = replace(piece, branches=Branches(chosen, no_tokens, empty))
        for _ in run(head, self._embedding_VE, [asked], self._length + 1, choose):
            pass
        tokens_AS = torch.stack(drafted, 1)
        finals_ASE = self._read(piece.token_ids_T[:-1], chosen, tokens_AS)
        return replace(piece, branches=Branches(chosen, tokens_AS, finals_ASE))

    def _read(self, token_ids_T: Tensor, starts_A: Tensor, tokens_AS: Tensor) -> Tensor:
        """The target's last states behind every drafted token, [A, S, E]."""
        num_tokens, (count, length) = len(token_ids_T), tokens_AS.shape
        mask_RR, depths_R = _tree(num_tokens, starts_A.numpy(), length)
        slots_R = torch.arange(len(depths_R))
        rows = SequenceRows(slots_R.numpy(), mask_RR, depths_R)
        device, backend = self._runner.device, self._runner.backend
        self._runner.forward(
            ForwardBatch(
                input_ids_N=torch.cat([token_ids_T, tokens_AS.flatten()]).to(device),
                position_ids_N=torch.from_numpy(depths_R).to(device),
                slots_M=slots_R.to(device),
                logit_rows=torch.empty(0, dtype=torch.int64, device=device),
                plan=backend.plan([rows], device),
                kv_caches=self._runner.kv_caches,
                backend=backend,
            )
        )
        last_NE = self._recorder.rows(slots_R.numpy())[num_tokens:, 0]
        return self._final_norm(last_NE).unflatten(0, (count, length))


def _tree(
    num_tokens: int, starts_A: NDArray[np.int64], length: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Who sees whom, [R, R], and positions [R]: a chain of tokens, then the branches one by one.

    The branch of row i follows token i + 1.
    """
    count = len(starts_A)
    num_rows = num_tokens + count * length
    mask_RR = np.zeros((num_rows, num_rows), np.bool_)
    mask_RR[:num_tokens, :num_tokens] = np.tri(num_tokens, dtype=np.bool_)
    branches = mask_RR[num_tokens:].reshape(count, length, num_rows)
    for index, (branch, start) in enumerate(zip(branches, starts_A, strict=True)):
        begin = num_tokens + index * length
        branch[:, : start + 2] = True
        branch[:, begin : begin + length] = np.tri(length, dtype=np.bool_)
    depths = starts_A[:, None] + 2 + np.arange(length)
    return mask_RR, np.concatenate([np.arange(num_tokens), depths.reshape(-1)])
