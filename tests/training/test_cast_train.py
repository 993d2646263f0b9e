"""`cast-train` from nothing to a head that is served, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
from engine.driving import request, run
from safetensors.torch import load_file

from cast_server.build import build_core
from cast_server.config import EngineConfig
from cast_server.engine.request import SamplingParams
from cast_server.model_files import load_model, resolve_model
from cast_server.training.cli import main
from cast_server.training.corpus import read
from cast_server.training.features import FeatureFile

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def llama_of_six_layers():
    return tiny_models.llama(num_hidden_layers=6)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_models.randomised(llama_of_six_layers).save_pretrained(directory)
    tokenizer = tiny_models.byte_level_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    tokenizer.chat_template = None
    return directory


@pytest.fixture(scope="module")
def flags(model_directory: Path) -> list[str]:
    return [
        f"--model={model_directory}",
        "--conversations=40",
        "--answer-tokens=24",
        "--steps=4",
        "--batch-tokens=400",
        "--on-policy-steps=2",
        "--draft-vocab-size=200",
        "--threads=1",
    ]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, flags: list[str]) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert main([f"--out={out}", *flags]) == 0
    return out


def test_everything_is_there(out: Path) -> None:
    conversations = list(read(out / "corpus.jsonl"))
    assert sorted(one.id for one in conversations) == list(range(40))
    assert len({one.task for one in conversations}) == 6
    files = {path.name for path in (out / "head").iterdir()}
    wanted = {"config.json", "model.safetensors", "ngrams.store", "pool.json", "calibration.json"}
    assert files == wanted | {"README.md", "curves.png", "history.json"}
    history = json.loads((out / "head" / "history.json").read_text())
    assert len(history["steps"]) == 4
    assert "agreement at depth 1" in (out / "head" / "README.md").read_text()


def test_the_head_is_served_and_changes_no_token(out: Path, model_directory: Path) -> None:
    model, tokenizer = load_model(resolve_model(str(model_directory)), torch.float32)
    config = EngineConfig(
        model=str(model_directory),
        dtype="float32",
        head=str(out / "head"),
        kv_cache_tokens=2048,
        max_draft_rows=64,
    )
    core = build_core(config, model, tokenizer)
    assert core.drafter.name == "eagle"
    prompts = [one.prompt for one in read(out / "corpus.jsonl")][:6]
    for params in (
        SamplingParams(max_tokens=24, temperature=0.0),
        SamplingParams(max_tokens=24, temperature=0.8),
    ):
        answers = {
            policy: run(core, [request(str(i), p, params, policy) for i, p in enumerate(prompts)])
            for policy in ("off", "tree:12")
        }
        for name, plain in answers["off"].items():
            assert answers["tree:12"][name].tokens == plain.tokens
        drafted = [a.last.speculation.num_draft_tokens for a in answers["tree:12"].values()]
        assert sum(drafted) > 0


def test_the_same_command_has_nothing_left_to_do(out: Path, flags: list[str]) -> None:
    weights = (out / "head" / "model.safetensors").read_bytes()
    assert main([f"--out={out}", *flags]) == 0
    assert (out / "head" / "model.safetensors").read_bytes() == weights


def test_another_recipe_in_the_same_directory_is_refused(out, flags, capsys) -> None:
    assert main([f"--out={out}", *flags, "--draft-vocab-size=100"]) == 2
    assert "was begun with draft_vocab_size 200, not 100" in capsys.readouterr().err


def test_answers_to_given_prompts(tmp_path: Path, flags: list[str]) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "the cat"}, {"messages": [{"role": "user", "content": "the dog"}]}]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    given = [*flags, f"--prompts={prompts}", "--conversations=4", "--stages", "make"]
    assert main([f"--out={tmp_path / 'out'}", *given]) == 0
    conversations = sorted(read(tmp_path / "out" / "corpus.jsonl"), key=lambda one: one.id)
    assert [one.prompt for one in conversations[:2]] == [one.prompt for one in conversations[2:]]
    assert {one.task for one in conversations} == {"given"}


@pytest.mark.parametrize("line", ["not json", '{"question": "?"}'])
def test_prompts_that_cannot_be_read(tmp_path: Path, flags: list[str], capsys, line: str) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(line)
    given = [*flags, f"--prompts={prompts}", "--stages", "make"]
    assert main([f"--out={tmp_path / 'out'}", *given]) == 2
    assert "prompts.jsonl, line 1: need a JSON object" in capsys.readouterr().err


@pytest.mark.parametrize(("stage", "missing"), [("learn", "make"), ("publish", "make")])
def test_a_stage_too_early(tmp_path: Path, flags: list[str], capsys, stage, missing) -> None:
    assert main([f"--out={tmp_path}", *flags, "--stages", stage]) == 2
    error = capsys.readouterr().err
    assert "corpus.jsonl is not there yet" in error
    assert f"run the stage '{missing}' first" in error


def test_nothing_is_begun_that_cannot_be_drawn(tmp_path, flags, capsys, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([f"--out={tmp_path / 'out'}", *flags]) == 2
    assert "pip install 'castserve[plots]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_corpus_smaller_than_a_batch(tmp_path: Path, out: Path, flags: list[str], capsys) -> None:
    for name in ("corpus.jsonl", "corpus.features"):
        shutil.copy(out / name, tmp_path / name)
    few = [*flags, "--batch-tokens=100000", "--stages", "learn"]
    assert main([f"--out={tmp_path}", *few]) == 2
    assert "40 conversations are less than one batch of 100000 tokens" in capsys.readouterr().err


def test_what_was_written_before_is_only_read_again(
    out: Path, flags: list[str], tmp_path: Path
) -> None:
    """The same conversations and, but for the order of sums, the same hidden states."""
    known = [f"--out={tmp_path}", f"--corpus={out / 'corpus.jsonl'}", "--stages=make"]
    assert main([*known, *flags]) == 0
    before, after = (
        {one.id: (one, rows) for one, rows in _with_features(folder)} for folder in (out, tmp_path)
    )
    assert before.keys() == after.keys()
    for index, (conversation, rows) in before.items():
        assert after[index][0] == conversation
        torch.testing.assert_close(after[index][1], rows, rtol=0.1, atol=0.1)


def _with_features(folder: Path):
    rows = FeatureFile(folder / "corpus.jsonl", (4, 64)).open().float()
    begin = 0
    for one in read(folder / "corpus.jsonl"):
        yield one, rows[begin : begin + one.num_features]
        begin += one.num_features
    assert begin == len(rows)


def test_goes_on_from_a_head(out: Path, flags: list[str], tmp_path: Path) -> None:
    """After no step worth speaking of it is still that head, with its vocabulary."""
    shutil.copytree(out, tmp_path / "next", ignore=shutil.ignore_patterns("training", "*.json"))
    gentle = ["--learning-rate=1e-12", "--steps=1", "--on-policy-steps=0", "--stages=learn"]
    start = f"--start={out / 'head'}"
    assert main([f"--out={tmp_path / 'next'}", *flags, start, *gentle]) == 0
    state = torch.load(tmp_path / "next" / "training" / "checkpoint.pt", weights_only=True)
    for name, tensor in load_file(out / "head" / "model.safetensors").items():
        if name == "lm_head.weight":
            torch.testing.assert_close(state["head"][name], tensor.float())
            return
    raise AssertionError("the head has no output rows")


@pytest.mark.parametrize("content", [None, "not json\n", '{"prompt": [1]}\n'])
def test_a_corpus_that_cannot_be_read(flags, tmp_path: Path, capsys, content) -> None:
    corpus = tmp_path / "known.jsonl"
    if content is not None:
        corpus.write_text(content)
    command = [f"--out={tmp_path / 'out'}", *flags, f"--corpus={corpus}", "--stages=make"]
    assert main(command) == 2
    assert f"--corpus {corpus} cannot be read" in capsys.readouterr().err


def test_a_head_that_is_not_there_is_refused(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--out={tmp_path}", *flags, "--start=nowhere"]) == 2
    assert "There is no directory nowhere" in capsys.readouterr().err
