"""The one attention function that transformers' models call here.

`AttentionInterface` hands over queries, keys and values after rotary embedding; they are written
into the paged cache and attended through the step's backend. What the step looks like travels as an
argument, `forward_batch`, through the model's own keyword arguments.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from cast_server.engine.forward_batch import ForwardBatch
from cast_server.errors import UnsupportedModelError

ATTENTION_NAME: Final = "cast_tree"


def register_attention() -> None:
    """Makes `ATTENTION_NAME` known to transformers. Harmless when repeated."""
    AttentionInterface.register(ATTENTION_NAME, attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


def attention_forward(  # noqa: PLR0913
    module: Any,
    query_1HND: Tensor,
    key_1KND: Tensor,
    value_1KND: Tensor,
    attention_mask: Tensor | None,
    *,
    forward_batch: ForwardBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Returns [1, N, H, D]."""
    del attention_mask  # the plan has it
    if s_aux is not None:
        raise UnsupportedModelError("The model uses attention sinks, which are not supported.")
    kv_cache_S2KD = forward_batch.kv_caches[module.layer_idx]
    backend = forward_batch.backend
    kv_M2KD = torch.stack([key_1KND[0], value_1KND[0]]).permute(2, 0, 1, 3)
    kv_M2KD = kv_M2KD[: len(forward_batch.slots_M)]
    backend.kv_write(kv_cache_S2KD, kv_M2KD, forward_batch.slots_M)
    out_NHD = backend.tree_attention(
        query_1HND[0].transpose(0, 1),
        kv_cache_S2KD,
        forward_batch.plan,
        scale=query_1HND.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return out_NHD.unsqueeze(0), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are the plan's business."""
