"""Every drafter of the registry, tiny: with random weights where it has any."""

from __future__ import annotations

import plain_head
import tiny_models
import torch

from cast_drafters.base import Drafter
from cast_drafters.draft_model import DraftModelDrafter
from cast_drafters.eagle.drafter import EagleDrafter
from cast_drafters.eagle.served import ServedHead
from cast_drafters.registry import create_drafter
from cast_drafters.sources import TextSource

NUM_SLOTS = 512


def tiny_eagle() -> Drafter:
    config = plain_head.config()
    target = plain_head.target(NUM_SLOTS)
    drafter = EagleDrafter(
        ServedHead(config, plain_head.weights(config), target, 64),
        text=TextSource(),
    )
    torch.manual_seed(0)
    hidden = [torch.randn(NUM_SLOTS, plain_head.WIDTH) for _ in range(3)]
    drafter.record(torch.arange(NUM_SLOTS), hidden)
    return drafter


def tiny_draft_model() -> Drafter:
    model = tiny_models.randomised(tiny_models.llama)
    return DraftModelDrafter(model, model.config.vocab_size)


MAKERS = {
    "ngram": lambda: create_drafter("ngram"),
    "eagle": tiny_eagle,
    "draft-model": tiny_draft_model,
}
