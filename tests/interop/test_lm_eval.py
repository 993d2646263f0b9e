"""lm-evaluation-harness asks this server and transformers, and finds the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import reading_server
import tiny_models
from e2e.serving import MODEL, serving

from cast_server.model_files import _cache_entry, resolve_model

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval")
HARNESS = Path(__file__).with_name("harness.py")


def run(folder: Path, runs) -> dict:
    """Without a network. What each run finds, by its name and the task's."""
    plan, results = folder / "plan.json", folder / "results.json"
    plan.write_text(json.dumps({"folder": str(folder), "runs": runs}))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder)}
    command = [sys.executable, str(HARNESS), str(plan), str(results)]
    done = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, check=False
    )
    refused = [line for line in done.stderr.splitlines() if "API request failed" in line]
    assert done.returncode == 0, refused or done.stderr[-3000:]
    return json.loads(results.read_text())


def ways_to_ask(url: str, directory: Path, length: int = 256) -> list[dict]:
    """Prompts as ids, several in a request; as text; cut up by the server's own tokenizer."""
    server = {"base_url": f"{url}/v1/completions", "max_length": length}
    local = server | {"tokenizer_backend": "huggingface", "tokenizer": str(directory)}
    ways = {
        "ids": local | {"num_concurrent": 3},
        "text": local | {"tokenized_requests": False},
        "remote": server | {"tokenizer_backend": "remote"},
    }
    return [
        {
            "name": name,
            "model": "local-completions",
            "model_args": args,
            "batch_size": 2 if name == "ids" else 1,
        }
        for name, args in ways.items()
    ]


def transformers_itself(directory: Path) -> dict:
    args = {"pretrained": str(directory), "dtype": "float32", "device": "cpu"}
    return {"name": "hf", "model": "hf", "model_args": args}


def assert_same(found, expected) -> None:
    assert found.keys() == {"choices", "last_words", "whole_texts", "going_on"}
    for task, items in found.items():
        for one, other in zip(items, expected[task], strict=True):
            assert one["asked"] == other["asked"]
            if task == "going_on":
                assert one["found"] == other["found"]
                continue
            for mine, theirs in zip(values(one["found"]), values(other["found"]), strict=True):
                assert mine == pytest.approx(theirs, abs=1e-3), task


def values(found) -> list[float]:
    """Log-likelihoods and, as 1 and 0, whether a text is what greedy decoding gives."""
    if isinstance(found, list):
        return [value for one in found for value in values(one)]
    return [{"True": 1.0, "False": 0.0}.get(str(found)) or float(found)]


def test_a_tiny_model(tmp_path) -> None:
    model, tokenizer = tiny_models.model_of("llama"), tiny_models.byte_level_tokenizer()
    directory = tmp_path / "model"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    with (
        tiny_models.one_thread(),
        reading_server.serving(model, tokenizer, policy="tree:6") as served,
    ):
        ways = ways_to_ask(served[0], directory)
        found = run(tmp_path, [transformers_itself(directory), *ways])
    expected = found.pop("hf")
    assert len({tuple(values(one["found"])) for one in expected["choices"]}) == 4
    for name in found:
        assert_same(found[name], expected)


@pytest.mark.slow
def test_the_default_model(tmp_path) -> None:
    """In a server of its own, with the speculation that is on by default."""
    with serving(tmp_path / "log.txt", "--kv-cache-tokens", "2048") as server:
        directory = _cache_entry(resolve_model(MODEL))  # its weights in float32, as they are served
        ways = ways_to_ask(server.url, directory)
        found = run(tmp_path, [transformers_itself(directory), *ways])
    expected = found.pop("hf")
    for name in found:
        assert_same(found[name], expected)
