"""Trains a tiny head on what lies in a directory; run as a program, so that it can be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import plain_head as plain
import torch

from cast_drafters.eagle.head import EagleHead
from cast_server.training.dataset import Dataset
from cast_server.training.trainer import HeadTrainer, TrainingSettings

CONFIG = plain.config(hidden_size=plain.WIDTH, head_dim=6)
SETTINGS = TrainingSettings(num_steps=14, batch_tokens=120, depth=3, learning_rate=3e-3)


def trainer(data: Path, out: Path, settings: TrainingSettings = SETTINGS) -> HeadTrainer:
    torch.manual_seed(3)
    return HeadTrainer(
        EagleHead(CONFIG),
        Dataset(data / "corpus.jsonl", (4, plain.WIDTH), torch.Tensor.float),
        torch.randn(plain.VOCAB, plain.WIDTH),
        torch.randn(CONFIG.draft_vocab_size, plain.WIDTH),
        settings,
        out,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer(Path(sys.argv[1]), Path(sys.argv[2])).run(
        lambda step, _: print(step, flush=True), save_every=3, look_every=5
    )
