"""Trains an EAGLE-3 head on a corpus and its features, and can be killed at any moment.

What step k does depends on the settings, the corpus and k alone. A run that is resumed from its
last checkpoint therefore goes on as if nothing had happened. Each epoch takes in what the corpus
has gained since; how much that was is part of the checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cast_drafters.eagle.head import EagleHead
from cast_drafters.eagle.unroll import Piece, StepLoss, unroll
from cast_server.training.dataset import Dataset


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """`num_steps` optimizer steps of about `batch_tokens` tokens, unrolled `depth` steps deep.

    The rate rises over `warmup` of the steps, and falls to a tenth over the last `cooldown`. The
    last `on_policy_steps` also learn from what the target thinks of the head's own drafts.
    """

    num_steps: int
    batch_tokens: int = 3000
    depth: int = 4
    depth_weight: float = 0.8
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.03
    cooldown: float = 0.3
    clip: float = 1.0
    on_policy_steps: int = 0
    seed: int = 0

    def rate(self, step: int) -> float:
        done = step / self.num_steps
        rise = min(1.0, (done + 1 / self.num_steps) / self.warmup)
        fall = min(1.0, (1 - done) / self.cooldown)
        return self.learning_rate * rise * (0.1 + 0.9 * 0.5 * (1 - math.cos(math.pi * fall)))


@dataclass(slots=True)
class History:
    """What a run has seen so far: one entry a step, one a look at the held-out part; and how many
    conversations each epoch had."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)


class HeadTrainer:
    """Owns the optimizer; `run` goes from the last checkpoint in `directory` to the end."""

    def __init__(
        self,
        head: EagleHead,
        dataset: Dataset,
        embedding_VE: Tensor,
        target_rows_VE: Tensor,
        settings: TrainingSettings,
        directory: Path,
        branch: Callable[[EagleHead, Sequence[Piece], int], list[Piece]] | None = None,
    ) -> None:
        self._branch = branch
        self.head = head
        self.settings = settings
        self.history = History()
        self._dataset = dataset
        self._embedding_VE, self._target_rows_VE = embedding_VE, target_rows_VE
        self._checkpoint = directory / "checkpoint.pt"
        directory.mkdir(parents=True, exist_ok=True)
        self._optimizer = torch.optim.AdamW(
            _groups(head, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.95)
        )

    def run(
        self,
        report: Callable[[int, dict[str, Any]], None],
        save_every: int = 25,
        look_every: int = 50,
    ) -> None:
        begin = self._resume()
        for step, batch in enumerate(self._batches(begin), start=begin):
            if step >= self.settings.num_steps:
                break
            entry = self._step(step, batch)
            self.history.steps.append(entry)
            is_last = step + 1 == self.settings.num_steps
            if is_last or (step + 1) % look_every == 0:
                self.history.held_out.append({"step": step + 1, **self.look()})
            if is_last or (step + 1) % save_every == 0:
                self._save(step + 1)
            report(step, entry)

    def look(self, at_most: int = 48) -> dict[str, Any]:
        """Loss and agreement by depth on conversations that are not trained on."""
        totals: list[list[float]] = []
        indices = [i for i in range(len(self._dataset)) if self._dataset.is_held_out(i)]
        chosen = indices[:at_most]
        with torch.no_grad():
            for begin in range(0, len(chosen), 8):
                pieces = [self._dataset.piece(index) for index in chosen[begin : begin + 8]]
                losses = self._unroll(pieces)
                totals.append([x for one in losses for x in (one.loss.item(), one.agreement)])
        means = torch.tensor(totals).mean(0).tolist() if totals else []
        return {"loss": means[0::2], "agreement": means[1::2]}

    def _step(self, step: int, batch: list[int]) -> dict[str, Any]:
        rate = self.settings.rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        pieces = [self._dataset.piece(index) for index in batch]
        if step >= self.settings.num_steps - self.settings.on_policy_steps and self._branch:
            with torch.autocast("cpu", torch.bfloat16):
                pieces += self._branch(self.head, pieces, self.settings.seed * 1009 + step)
        losses = self._unroll(pieces)
        weights = [self.settings.depth_weight**depth for depth in range(len(losses))]
        total = sum(w * one.loss for w, one in zip(weights, losses, strict=True)) / sum(weights)
        assert isinstance(total, Tensor)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {
            "loss": total.item(),
            "agreement": [round(one.agreement, 4) for one in losses],
            "gradient": norm.item(),
            "labels": losses[0].count,
        }

    def _unroll(self, pieces: list[Piece]) -> list[StepLoss]:
        with torch.autocast("cpu", torch.bfloat16):
            return unroll(
                self.head, self._embedding_VE, self._target_rows_VE, pieces, self.settings.depth
            )

    def _batches(self, first: int) -> Iterator[list[int]]:
        """Batch after batch, epoch after epoch, from number `first` on."""
        number = epoch = 0
        while True:
            before = number
            for batch in self._epoch(epoch):
                if number >= first:
                    yield batch
                number += 1
            if number == before:
                raise ValueError(
                    f"{self.history.epochs[epoch]} conversations are less than one batch of "
                    f"{self.settings.batch_tokens} tokens: make more, or choose smaller batches."
                )
            epoch += 1

    def _epoch(self, epoch: int) -> Iterator[list[int]]:
        if epoch == len(self.history.epochs):
            self._dataset.refresh()
            self.history.epochs.append(len(self._dataset))
        known = range(self.history.epochs[epoch])
        trained = torch.tensor([i for i in known if not self._dataset.is_held_out(i)])
        generator = torch.Generator().manual_seed(self.settings.seed * 1009 + epoch)
        batch: list[int] = []
        tokens = 0
        for index in trained[torch.randperm(len(trained), generator=generator)].tolist():
            batch.append(index)
            tokens += self._dataset.num_tokens(index)
            if tokens >= self.settings.batch_tokens:
                yield batch
                batch, tokens = [], 0

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "settings": asdict(self.settings),
            "head": self.head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "history": asdict(self.history),
        }
        scratch = self._checkpoint.with_suffix(".new")
        torch.save(state, scratch)
        scratch.replace(self._checkpoint)
        text = json.dumps(asdict(self.history), separators=(",", ":"))
        (self._checkpoint.parent / "history.json").write_text(text + "\n")

    def _resume(self) -> int:
        if not self._checkpoint.exists():
            return 0
        state = torch.load(self._checkpoint, weights_only=True)
        free = {name: getattr(self.settings, name) for name in ("num_steps", "on_policy_steps")}
        made_with = state["settings"] | free
        if made_with != asdict(self.settings):
            raise ValueError(
                f"{self._checkpoint} was made with other settings ({state['settings']}); continue "
                "with those, or train into another directory."
            )
        self.head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.history = History(**state["history"])
        return int(state["step"])


def _groups(head: EagleHead, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in head.parameters() if p.dim() > 1]
    vectors = [p for p in head.parameters() if p.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
