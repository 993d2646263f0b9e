"""What a draft head would have said along a text, beside what the target said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cast_drafters.eagle.checkpoint import HeadFormatError, read_head
from cast_drafters.eagle.config import HeadConfig, TargetShape
from cast_drafters.eagle.head import EagleHead
from cast_drafters.eagle.unroll import Piece, run
from cast_server.engine.reading import Read


class DraftHead:
    """An EAGLE-3 head in float32, as it was trained: it reads the text's own tokens and, from the
    second level on, its own hidden states. `tensors` as `read_head` returns them."""

    def __init__(
        self, config: HeadConfig, tensors: Mapping[str, Tensor], embedding_VE: Tensor
    ) -> None:
        self.layer_ids = config.layer_ids
        self.vocabulary_I = tensors["draft_token_ids"]
        self._head = EagleHead(config)
        own = self._head.state_dict().keys()
        self._head.load_state_dict({n: one.float() for n, one in tensors.items() if n in own})
        self._embedding_VE = embedding_VE

    @classmethod
    def load(cls, directory: Path, model: Any) -> DraftHead:
        """Raises `HeadFormatError` for what is no EAGLE-3 head of this model."""
        text = model.config.get_text_config()
        target = TargetShape(text.hidden_size, text.vocab_size, text.num_hidden_layers)
        config, tensors = read_head(directory, target)
        if config.version != 3:
            raise HeadFormatError(f"{directory}: only EAGLE-3 heads can be judged.")
        borrowed_VE = model.get_input_embeddings().weight.detach()
        return cls(config, tensors, tensors.get("embed_tokens.weight", borrowed_VE))

    @torch.inference_mode()
    def overlaps(self, token_ids: Sequence[int], done: Read, depth: int) -> Tensor:
        """`Subject.overlaps`, of a text read with this head's layers and among its vocabulary."""
        num_tokens = len(token_ids)
        overlap_SN = torch.full((depth, num_tokens), torch.nan, dtype=torch.float64)
        if num_tokens < 3 or done.among_NI is None:
            return overlap_SN
        piece = Piece(torch.tensor(token_ids), torch.cat(done.layers, -1), torch.empty(0), 0)
        embedding_VE = self._embedding_VE.cpu().float()
        for step, logits_AI in enumerate(run(self._head, embedding_VE, [piece], depth)):
            # Row i has read token i + 1 and, at step s, the s after it; it predicts what follows.
            num_rows = num_tokens - 2 - step
            if num_rows <= 0:
                break
            q_AI = logits_AI[:num_rows].double().softmax(-1)
            p_AI = done.among_NI[1 + step : 1 + step + num_rows].double()
            overlap_SN[step, :num_rows] = torch.minimum(p_AI, q_AI).sum(-1)
        return overlap_SN
