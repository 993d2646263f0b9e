"""How far to believe the head, the text so far and the n-gram store: learnt on held-out answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cast_drafters.eagle.head import EagleHead
from cast_drafters.eagle.unroll import run
from cast_drafters.pool import NUM_DEPTHS, Pool, Prediction, fit
from cast_drafters.sources import TAIL, StoreSource, TextSource
from cast_server.training.dataset import Dataset

_WIDTH = 8  # guesses of a source that count


@torch.no_grad()
def fit_pool(
    head: EagleHead,
    dataset: Dataset,
    embedding_VE: Tensor,
    draft_token_ids: Tensor,
    store: StoreSource,
) -> Pool:
    """Each held-out answer token is a sample at every depth of the head, and once without it."""
    cells: list[tuple[int, int, int]] = []
    shares: list[tuple[float, float, float]] = []
    draft_ids = {token: i for i, token in enumerate(draft_token_ids.tolist())}
    for index in range(len(dataset)):
        if not dataset.is_held_out(index):
            continue
        piece = dataset.piece(index)
        tokens = piece.token_ids_T.tolist()
        free = _free_shares(tokens, piece.first_label + 2, store)
        with torch.autocast("cpu", torch.bfloat16):
            steps = list(run(head, embedding_VE, [piece], NUM_DEPTHS - 1))
        for depth, logits_AV in enumerate(steps, start=1):
            probabilities_AV = logits_AV.float().softmax(-1)
            places = piece.starts() + 1 + depth
            for row, place in enumerate(places[piece.has_label(depth - 1)].tolist()):
                draft_id = draft_ids.get(tokens[place])
                share = float(probabilities_AV[row, draft_id]) if draft_id is not None else 0.0
                (text_order, text), (store_order, stored) = free[place]
                cells.append((depth, text_order, store_order))
                shares.append((share, text, stored))
                if depth == 1:
                    cells.append((0, text_order, store_order))
                    shares.append((0.0, text, stored))
    return fit(np.array(cells, np.int64).reshape(-1, 3), np.array(shares).reshape(-1, 3))


def _free_shares(
    tokens: Sequence[int], first: int, store: StoreSource
) -> dict[int, tuple[tuple[int, float], tuple[int, float]]]:
    """For each place from `first` on: order and share of text and of store."""
    text = TextSource()
    found = {}
    for place in range(first, len(tokens)):
        text.extend("", tokens[:place])
        tail = tokens[max(0, place - TAIL) : place]
        found[place] = (
            _share(text.predict("", tail, _WIDTH), tokens[place]),
            _share(store.predict("", tail, _WIDTH), tokens[place]),
        )
    return found


def _share(prediction: Prediction, token: int) -> tuple[int, float]:
    return min(prediction.order, 5), dict(prediction.guesses).get(token, 0.0)
