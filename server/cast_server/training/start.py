"""What training starts from: the vocabulary of the drafts and a head made of the target's parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cast_drafters.eagle.checkpoint import HeadFormatError, read_head
from cast_drafters.eagle.config import HeadConfig, TargetShape
from cast_drafters.eagle.head import EagleHead
from cast_drafters.eagle.served_v1 import final_norm
from cast_server.engine.taps import decoder_layers
from cast_server.training.corpus import Conversation


def draft_vocabulary(
    conversations: Iterable[Conversation], vocab_size: int, draft_vocab_size: int
) -> Tensor:
    """The tokens that answers use most, then those of prompts, then the lowest ids; sorted."""
    answers: Counter[int] = Counter()
    prompts: Counter[int] = Counter()
    for one in conversations:
        answers.update(one.answer)
        prompts.update(one.prompt)
    ranked = dict.fromkeys(token for token, _ in answers.most_common())
    ranked |= dict.fromkeys(token for token, _ in prompts.most_common())
    ranked |= dict.fromkeys(range(vocab_size))
    return torch.tensor(sorted(list(ranked)[:draft_vocab_size]))


def head_config(model: Any, layer_ids: tuple[int, ...], draft_vocab_size: int) -> HeadConfig:
    """A head of the target's own shapes."""
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = getattr(config, "rope_parameters", None) or {}
    return HeadConfig(
        version=3,
        hidden_size=config.hidden_size,
        target_hidden_size=config.hidden_size,
        intermediate_size=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        num_heads=config.num_attention_heads,
        num_key_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        draft_vocab_size=draft_vocab_size,
        rms_norm_eps=getattr(config, "rms_norm_eps", 1e-5),
        rope_theta=float(rope.get("rope_theta", 10000.0)),
        max_position_embeddings=config.max_position_embeddings,
        layer_ids=layer_ids,
    )


def known_head(directory: Path, model: Any) -> tuple[HeadConfig, dict[str, Tensor]]:
    """An EAGLE-3 head to go on from, as `read_head` returns it but in float32.

    Raises `HeadFormatError` for one that is not there, does not fit the model or is an EAGLE-1.
    """
    text = model.config.get_text_config()
    target = TargetShape(text.hidden_size, text.vocab_size, text.num_hidden_layers)
    config, tensors = read_head(directory, target)
    if config.version != 3:
        raise HeadFormatError(f"{directory} holds an EAGLE-{config.version} head: only EAGLE-3.")
    return config, {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


@torch.no_grad()
def start_head(model: Any, config: HeadConfig, draft_token_ids: Tensor, seed: int = 0) -> EagleHead:
    """Passes the last tap on through a copy of the target's last layer and output rows.

    Where the target's layer has no such parts, and for all that is new, small random weights.
    """
    torch.manual_seed(seed)
    head = EagleHead(config)
    for parameter in head.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.02)
    size = config.hidden_size
    if config.target_hidden_size == size:
        head.fc.weight[:, -size:] += torch.eye(size)
    donor = {name: p.float() for name, p in decoder_layers(model)[-1].named_parameters()}
    for name, parameter in head.layer.named_parameters():
        if name in donor:
            _take_over(parameter, donor[name])
    if "input_layernorm.weight" in donor:
        head.layer.hidden_norm.weight.copy_(donor["input_layernorm.weight"])
        head.layer.input_layernorm.weight.fill_(1.0)
    rows = model.get_output_embeddings().weight
    if rows.shape[1] == size:
        head.lm_head.weight.copy_(rows[draft_token_ids])
    norm = final_norm(model)
    if norm.weight.shape == head.norm.weight.shape:
        head.norm.weight.copy_(norm.weight)
    return head


def _take_over(parameter: Tensor, given: Tensor) -> None:
    if given.shape == parameter.shape:
        parameter.copy_(given)
    elif given.dim() == 2 and given.shape[1] * 2 == parameter.shape[1]:
        parameter[:, given.shape[1] :] = given  # the half that reads the hidden state
