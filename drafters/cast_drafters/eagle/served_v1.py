"""EAGLE-1 and EAGLE-2 heads (Li et al. 2024) as they are served.

Their one layer reads the embedding of the next token and the target's last hidden state, joined by
one matrix, and foresees the next last hidden state; the target's own output rows make logits of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cast_drafters.base import TargetParts
from cast_drafters.eagle.config import HeadConfig
from cast_drafters.eagle.entry import Entry
from cast_drafters.eagle.served import ServedHead
from cast_kernels.linear import PackedLinear


class ServedHeadV1(ServedHead):
    """Drafts from the target's whole vocabulary, out of the target's own embeddings.

    Raises `ValueError` if the target's final norm or its output rows are not found.
    """

    def __init__(
        self,
        config: HeadConfig,
        tensors: Mapping[str, Tensor],
        target: TargetParts,
        num_scratch: int,
    ) -> None:
        super().__init__(config, tensors, target, num_scratch)
        # Files may hold a copy of them, which EAGLE's own loader overwrites.
        self._embedding_VE = target.embedding_VE
        self.layer_ids = (target.num_layers,)
        place, bias_H = (target.device, target.dtype), tensors.get("fc.bias")
        bias_H = None if bias_H is None else bias_H.to(*place)
        self._fc = PackedLinear(tensors["fc.weight"].to(*place), bias_H)

    def _make_entry(self, weight: Mapping[str, Tensor]) -> Entry:  # noqa: ARG002
        """Takes in the residual stream after the target's last layer, one [M, E]."""
        norm = final_norm(self._target.model)
        return lambda hidden: norm(hidden[0]).float()

    def logits(self, out_NH: Tensor) -> Tensor:
        logits: Tensor = self._lm_head(out_NH.to(self._target.dtype)).float()
        return logits

    def _make_lm_head(self, weight: Mapping[str, Tensor], make: Any) -> Any:  # noqa: ARG002
        lm_head = self._target.model.get_output_embeddings()
        if lm_head is None:
            raise ValueError(
                f"{type(self._target.model).__name__} has no output embeddings, so EAGLE-1/2 heads "
                "cannot draft for it."
            )
        return lm_head

    def _read(self, embedded_NH: Tensor, hidden_NH: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([embedded_NH.float(), hidden_NH], -1).to(self._target.dtype)
        x_NH = self._fc(joined).float()
        return x_NH, x_NH


def final_norm(model: Any) -> Any:
    """The module between a target's last layer and its output rows.

    Raises `ValueError` if it goes by none of the usual names.
    """
    decoder = model.get_decoder()
    norm = getattr(decoder, "norm", None) or getattr(decoder, "ln_f", None)
    if norm is None:
        raise ValueError(
            f"The final norm of {type(model).__name__} is not where it is looked for, so no head "
            "that needs its last hidden states can be trained or served for it."
        )
    return norm
