"""Corpus files that survive kills, and a trainer that goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import plain_head as plain
import pytest
import torch
from training import worker

from cast_server.training import corpus
from cast_server.training.corpus import Conversation
from cast_server.training.dataset import Dataset
from cast_server.training.features import FeatureFile

ROOT = Path(__file__).parents[2]


def conversation(index: int) -> Conversation:
    generator = torch.Generator().manual_seed(index)
    lengths = torch.randint(5, 25, (2,), generator=generator).tolist()
    prompt, answer = (
        torch.randint(plain.VOCAB, (n,), generator=generator).tolist() for n in lengths
    )
    return Conversation(index, "chat", 0.0, prompt, answer)


def write(directory: Path, indices: range) -> None:
    features = FeatureFile(directory / "corpus.jsonl", (4, plain.WIDTH))
    for index in indices:
        one = conversation(index)
        generator = torch.Generator().manual_seed(1000 + index)
        rows = torch.randn(one.num_features, 4, plain.WIDTH, generator=generator)
        features.append(rows.bfloat16())
        corpus.append(directory / "corpus.jsonl", one)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path, range(40))
    return tmp_path


def run(data: Path, out: Path, kill_at: str | None = None) -> int:
    """Trains in a process of its own, killed once it has told of step `kill_at`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training.worker", str(data), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == kill_at:
                process.send_signal(signal.SIGKILL)
        return process.wait()


def history(out: Path) -> dict:
    return json.loads((out / "history.json").read_text())


def test_killed_and_resumed_equals_uninterrupted(data: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(data, whole) == 0
    assert run(data, broken, kill_at="8") == -signal.SIGKILL
    assert run(data, broken) == 0
    assert history(broken) == history(whole)
    assert len(history(whole)["steps"]) == 14
    states = [torch.load(out / "checkpoint.pt", weights_only=True) for out in (whole, broken)]
    for name, tensor in states[0]["head"].items():
        assert torch.equal(tensor, states[1]["head"][name]), name


def test_learns(data: Path, tmp_path: Path) -> None:
    trainer = worker.trainer(data, tmp_path / "run", replace(worker.SETTINGS, num_steps=60))
    trainer.run(lambda *_: None)
    losses = [entry["loss"] for entry in trainer.history.steps]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_other_settings_are_refused_but_more_steps_are_fine(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    worker.trainer(data, out, replace(worker.SETTINGS, num_steps=2)).run(lambda *_: None)
    seen: list[int] = []
    further = worker.trainer(data, out, replace(worker.SETTINGS, num_steps=4))
    further.run(lambda step, _: seen.append(step))
    assert seen == [2, 3]
    other = worker.trainer(data, out, replace(worker.SETTINGS, depth=2))
    with pytest.raises(ValueError, match=r"checkpoint\.pt was made with other settings .*depth"):
        other.run(lambda *_: None)


def test_an_epoch_takes_in_what_the_corpus_gained(data: Path, tmp_path: Path) -> None:
    trainer = worker.trainer(data, tmp_path / "run")
    trainer.run(lambda step, _: write(data, range(40, 50)) if step == 1 else None)
    assert trainer.history.epochs[:2] == [40, 50]


def test_held_out_conversations_are_never_trained_on(data: Path, tmp_path: Path) -> None:
    trainer = worker.trainer(data, tmp_path / "run")
    trained = {index for batch in trainer._epoch(0) for index in batch}
    held_out = {i for i in range(40) if trainer._dataset.is_held_out(i)}
    assert held_out == {0, 32}
    assert not trained & held_out


def test_a_line_cut_short_is_left_out_and_repaired(data: Path) -> None:
    path = data / "corpus.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert len(list(corpus.read(path))) == 39
    assert corpus.repair(path) == set(range(39))
    features = FeatureFile(path, (4, plain.WIDTH))
    features.repair(path)
    assert len(features.open()) == sum(one.num_features for one in corpus.read(path))
    write(data, range(39, 40))
    assert path.read_bytes() == whole


def test_features_that_are_missing_are_told(data: Path) -> None:
    path = data / "corpus.features"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="do not belong together"):
        FeatureFile(data / "corpus.jsonl", (4, plain.WIDTH)).repair(data / "corpus.jsonl")


def test_pieces_pair_features_with_their_conversation(data: Path) -> None:
    dataset = Dataset(data / "corpus.jsonl", (4, plain.WIDTH), torch.Tensor.float)
    piece, one = dataset.piece(7), conversation(7)
    generator = torch.Generator().manual_seed(1007)
    rows = torch.randn(one.num_features, 4, plain.WIDTH, generator=generator).bfloat16()
    assert piece.token_ids_T.tolist() == [*one.prompt, *one.answer]
    assert torch.equal(piece.features_TF, rows[:, :3].flatten(1))
    assert torch.equal(piece.final_TE, rows[:, 3].float())
    assert piece.first_label == len(one.prompt) - 2
